"""Disk images in the store: compressed, with their checksums, and back to a sparse file.

The compressed form is a row of xz streams, one for each 16 MiB, which `xz -d` reads as one file. Chunks are compressed
in parallel, the result does not depend on how many at a time, and all chunks of zeros are the same few bytes, so that
neither way spends time on the empty part of a disk.
"""

from __future__ import annotations

import lzma
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from coreimage.disk_image.assembly import AssembledImage
from coreimage.errors import HostError, VerificationError
from coreimage.model import DISK_IMAGE_XZ, DiskImage
from coreimage.process import Run
from coreimage.storage import Store, open_blob, put_blob_file

CHUNK_BYTES = 16 << 20
_HOLE_BYTES = 64 << 10
_ZEROS = bytes(CHUNK_BYTES)
_PRESET = 0
"""Of xz: the fastest; an image is stored once for each version and read often."""


def store_image(assembled: AssembledImage, *, store: Store, work_folder: Path) -> DiskImage:
    """Compresses an image into the store and lists it below `images/<channel>/<device>/<version>/`."""
    identity = assembled.identity
    with tempfile.TemporaryDirectory(prefix="store-image-", dir=work_folder) as folder:
        compressed = compress(assembled.path, Path(folder) / "image.xz")
        ref = put_blob_file(store, compressed, DISK_IMAGE_XZ)
    prefix = image_prefix(identity.channel, identity.device, identity.version)
    name = f"{identity.channel.replace('/', '-')}-{identity.device}-{identity.version}.img"
    store.copy(ref.uri, f"{prefix}/{name}.xz")
    checksums = f"{assembled.raw_sha256} *{name}\n{ref.sha256} *{name}.xz\n"
    store.put_bytes(f"{prefix}/SHA256SUMS", checksums.encode(), media_type="text/plain; charset=utf-8")
    return DiskImage(
        channel=identity.channel,
        device=identity.device,
        version=identity.version,
        architecture=identity.architecture,
        image=ref,
        raw_sha256=assembled.raw_sha256,
        raw_size_bytes=assembled.raw_size_bytes,
    )


def image_prefix(channel: str, device: str, version: int) -> str:
    return f"images/{channel}/{device}/{version}"


def fetch_image(image: DiskImage, path: Path, *, store: Store) -> Path:
    """The raw image as a sparse file at `path`; verified, and nothing is left there on failure."""
    try:
        with open_blob(store, image.image) as source, path.open("wb") as target:
            decompress(source, target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def convert(image: Path, output: Path, format_: str, *, run: Run) -> Path:
    """A raw image as qcow2 or vmdk; `output` is replaced whole."""
    temporary = output.with_name(f".{output.name}.converting")
    try:
        run(["qemu-img", "convert", "-f", "raw", "-O", format_, image, temporary])
        temporary.replace(output)
    except OSError as error:
        raise HostError(f"cannot be written: {error.strerror}", where=str(output)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return output


def compress(image: Path, target: Path) -> Path:
    workers = os.cpu_count() or 1
    with image.open("rb") as source, target.open("wb") as file, ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[bytes]] = deque()
        for chunk in iter(lambda: source.read(CHUNK_BYTES), b""):
            waiting.append(pool.submit(_stream, chunk))
            if len(waiting) > workers:
                file.write(waiting.popleft().result())
        for future in waiting:
            file.write(future.result())
    return target


def decompress(source: BinaryIO, target: BinaryIO) -> int:
    """Writes what a row of xz streams unpacks to, with holes for zeros, and gives its size in bytes."""
    size_bytes = 0
    for content in _contents(source):
        if content is not None:
            _write_sparsely(content, target, size_bytes)
        size_bytes += CHUNK_BYTES if content is None else len(content)
    target.truncate(size_bytes)
    return size_bytes


def _write_sparsely(content: bytes, target: BinaryIO, offset_bytes: int) -> None:
    for start in range(0, len(content), _HOLE_BYTES):
        block = content[start : start + _HOLE_BYTES]
        if not _empty(block):
            target.seek(offset_bytes + start)
            target.write(block)


def _empty(block: bytes) -> bool:
    return block == (_ZEROS if len(block) == CHUNK_BYTES else _ZEROS[: len(block)])


def _contents(source: BinaryIO) -> Iterator[bytes | None]:
    """Decompressed pieces; None for the stream that a chunk of zeros has."""
    zeros = _zero_stream()
    waiting, decoder = b"", lzma.LZMADecompressor(lzma.FORMAT_XZ)
    fresh = True
    while True:
        if fresh and waiting.startswith(zeros):
            waiting = waiting[len(zeros) :]
            yield None
            continue
        if len(waiting) < len(zeros) and (more := source.read(1 << 20)):
            waiting += more
            continue
        if not waiting:
            break
        content = decoder.decompress(waiting)
        waiting, fresh = decoder.unused_data, decoder.eof
        if decoder.eof:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        yield content
    if not fresh:
        raise VerificationError("the compressed image is cut short", resolution="delete it and run again")


def _stream(chunk: bytes) -> bytes:
    return _zero_stream() if len(chunk) == CHUNK_BYTES and _empty(chunk) else lzma.compress(chunk, preset=_PRESET)


@lru_cache(maxsize=1)
def _zero_stream() -> bytes:
    return lzma.compress(_ZEROS, preset=_PRESET)
