"""Sparse files: where their content is, and reading, hashing and copying them without reading holes.

The kernel would fill its cache with zeros for every hole that is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CHUNK_BYTES, _PIECE_BYTES = 1 << 20, 1 << 16
_ZEROS = bytes(_PIECE_BYTES)


def extents(file: int) -> Iterator[tuple[int, int]]:
    """Return start and end of each part of a file that is no hole, in order (lseek(2), SEEK_DATA and SEEK_HOLE).

    Args:
        file: A descriptor, whose position changes.
    """
    position, size_bytes = 0, os.fstat(file).st_size
    while position < size_bytes:
        try:
            start = os.lseek(file, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(file, start, os.SEEK_HOLE)
        yield start, position


def read_sparse(path: Path) -> Iterator[memoryview]:
    """Read all bytes of a file, zeros for its holes. A chunk is valid until the next one is asked for."""
    zeros, buffer = memoryview(bytes(_CHUNK_BYTES)), memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        position, size_bytes = 0, os.fstat(file.fileno()).st_size
        for start, end in (*extents(file.fileno()), (size_bytes, size_bytes)):
            for hole in range(position, start, _CHUNK_BYTES):
                yield zeros[: start - hole]
            position = file.seek(start)
            while position < end:
                count = file.readinto(buffer[: end - position])
                yield buffer[:count]
                position += count


def sparse_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, whose holes count as zeros."""
    digest = hashlib.sha256()
    for chunk in read_sparse(path):
        digest.update(chunk)
    return digest.hexdigest()


def copy_sparse(source: Path, target: Path) -> str:
    """Copy a file with its holes, sharing blocks where the filesystem can, and return the digest of its content.

    The digest is of the size, and of place and bytes of all pieces that are not zero: the same for a copy whose holes
    are elsewhere, as on another filesystem, and made without hashing zeros.
    """
    with (
        source.open("rb", buffering=0) as reader,
        target.open("wb", buffering=0) as writer,
        ThreadPoolExecutor(1) as executor,
    ):
        size_bytes = os.fstat(reader.fileno()).st_size
        writer.truncate(size_bytes)
        parts = list(extents(reader.fileno()))
        copying = executor.submit(_copy_parts, reader.fileno(), writer.fileno(), parts)
        digest = _content_digest(reader.fileno(), size_bytes, parts)
        copying.result()
    return digest


def _copy_parts(source: int, target: int, parts: Sequence[tuple[int, int]]) -> None:
    for position, end in parts:
        while position < end and (count := _copy_some(source, target, position, end - position)):
            position += count  # noqa: PLW2901


def _copy_some(source: int, target: int, position: int, limit_bytes: int) -> int:
    try:
        return os.copy_file_range(source, target, limit_bytes, position, position)
    except OSError as error:
        # Between two filesystems, or on one that cannot.
        if error.errno not in {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            raise
    return os.pwrite(target, os.pread(source, min(limit_bytes, _CHUNK_BYTES), position), position)


def _content_digest(file: int, size_bytes: int, parts: Sequence[tuple[int, int]]) -> str:
    digest = hashlib.sha256(size_bytes.to_bytes(8, "little"))
    done = 0
    for start, end in parts:
        for place in range(max(done, start // _PIECE_BYTES * _PIECE_BYTES), end, _PIECE_BYTES):
            piece = os.pread(file, _PIECE_BYTES, place)
            if piece != _ZEROS[: len(piece)]:
                digest.update(place.to_bytes(8, "little") + piece)
            done = place + _PIECE_BYTES
    return digest.hexdigest()
