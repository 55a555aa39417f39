"""Content-addressed artifacts: `blobs/sha256/ab/abcd…`, written once, verified whenever read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from coreimage.errors import ConflictError, VerificationError
from coreimage.model import ArtifactRef
from coreimage.storage.store import Store


def blob_key(sha256: str) -> str:
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def put_blob_bytes(store: Store, content: bytes, media_type: str) -> ArtifactRef:
    ref = _ref(hashlib.sha256(content).hexdigest(), len(content), media_type)
    if not _stored(store, ref):
        with suppress(ConflictError):
            store.put_bytes(ref.uri, content, media_type=media_type, if_absent=True)
    return ref


def put_blob_file(store: Store, path: Path, media_type: str) -> ArtifactRef:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    ref = _ref(sha256, path.stat().st_size, media_type)
    if not _stored(store, ref):
        with suppress(ConflictError):
            store.put_file(ref.uri, path, media_type=media_type, if_absent=True)
    return ref


def read_blob(store: Store, ref: ArtifactRef) -> bytes:
    """The bytes of a small artifact. Raises NotFoundError, or VerificationError when they are not what `ref` says."""
    with open_blob(store, ref) as file:
        return file.read()


def fetch_blob(store: Store, ref: ArtifactRef, path: Path) -> Path:
    """Copies an artifact to `path`, verified; nothing is left there on failure."""
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
    """Streams an artifact. Its digest is checked when the end is reached: do not act on it before."""
    with store.open(ref.uri) as file:
        yield cast("BinaryIO", VerifyingReader(file, ref))


class VerifyingReader:
    """Raises VerificationError at the end of the bytes unless they have the digest and size of `ref`."""

    def __init__(self, file: BinaryIO, ref: ArtifactRef) -> None:
        self._file, self._ref = file, ref
        self._digest, self._size_bytes = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._digest.update(chunk)
        self._size_bytes += len(chunk)
        if (not chunk and size != 0) or size < 0:
            self._check()
        return chunk

    def _check(self) -> None:
        if (self._digest.hexdigest(), self._size_bytes) != (self._ref.sha256, self._ref.size_bytes):
            raise VerificationError(
                f"stored bytes are not those that were recorded (sha256 {self._digest.hexdigest()[:16]}…, "
                f"{self._size_bytes} bytes)",
                where=self._ref.uri,
                resolution="delete this object and run again: it will be rebuilt",
            )


def _ref(sha256: str, size_bytes: int, media_type: str) -> ArtifactRef:
    return ArtifactRef(uri=blob_key(sha256), sha256=sha256, size_bytes=size_bytes, media_type=media_type)


def _stored(store: Store, ref: ArtifactRef) -> bool:
    found = store.head(ref.uri)
    return found is not None and found.size_bytes == ref.size_bytes
