"""Content-addressed artifacts: `blobs/sha256/ab/abcd…`, written once, verified whenever read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from coreimage.errors import LostWriteError, VerificationError
from coreimage.model import ArtifactRef
from coreimage.storage.store import Store


def blob_key(sha256: str) -> str:
    """Return the key of the blob with this digest."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def is_stored(store: Store, ref: ArtifactRef) -> bool:
    """Return whether the store has an artifact with its size."""
    info = store.head(ref.uri)
    return info is not None and info.size_bytes == ref.size_bytes


def put_blob_bytes(store: Store, content: bytes, media_type: str) -> ArtifactRef:
    """Store `content` as a blob, unless the store has it."""
    ref = _ref(hashlib.sha256(content).hexdigest(), len(content), media_type)
    if not is_stored(store, ref):
        with suppress(LostWriteError):
            store.put_bytes(ref.uri, content, media_type=media_type, if_absent=True)
    return ref


def put_blob_file(store: Store, path: Path, media_type: str) -> ArtifactRef:
    """Store the content of a file as a blob, unless the store has it."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    ref = _ref(sha256, path.stat().st_size, media_type)
    if not is_stored(store, ref):
        with suppress(LostWriteError):
            store.put_file(ref.uri, path, media_type=media_type, if_absent=True)
    return ref


def read_blob(store: Store, ref: ArtifactRef) -> bytes:
    """Return the bytes of a small artifact, verified.

    Raises:
        NotFoundError: The store has no such object.
        VerificationError: The stored bytes are not those of `ref`.
    """
    with open_blob(store, ref) as file:
        return file.read()


def fetch_blob(store: Store, ref: ArtifactRef, path: Path) -> Path:
    """Copy an artifact to `path`, verified, and return `path`. Nothing is left there on failure."""
    try:
        with open_blob(store, ref) as source, path.open("wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


@contextmanager
def open_blob(store: Store, ref: ArtifactRef) -> Iterator[BinaryIO]:
    """Open an artifact as a stream. Its digest is checked when the end is reached: do not act on the bytes before."""
    with store.open(ref.uri) as file:
        yield cast("BinaryIO", _VerifyingReader(file, ref))


class _VerifyingReader:
    """A stream that raises VerificationError at its end, unless its bytes have the digest and size of `ref`."""

    def __init__(self, file: BinaryIO, ref: ArtifactRef) -> None:
        self._file, self._ref = file, ref
        self._digest, self._size_bytes = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._digest.update(chunk)
        self._size_bytes += len(chunk)
        at_end = size < 0 or (size > 0 and not chunk)
        if at_end and (self._digest.hexdigest(), self._size_bytes) != (self._ref.sha256, self._ref.size_bytes):
            raise VerificationError(
                f"the stored bytes are not those that were recorded: their sha256 is {self._digest.hexdigest()[:16]}…, "
                f"their size {self._size_bytes} bytes",
                where=self._ref.uri,
                resolution="delete this object and run again: it will be rebuilt",
            )
        return chunk


def _ref(sha256: str, size_bytes: int, media_type: str) -> ArtifactRef:
    return ArtifactRef(uri=blob_key(sha256), sha256=sha256, size_bytes=size_bytes, media_type=media_type)
