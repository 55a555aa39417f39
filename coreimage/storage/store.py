"""What every store can do, and the rule for keys. The implementations are `directory` and `s3`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from coreimage.errors import VerificationError


@dataclass(frozen=True)
class ObjectInfo:
    """An object as it was when the store was asked.

    `etag` changes whenever the object is written with other bytes, and is what `if_match` takes; `modified` is UTC.
    """

    key: str
    size_bytes: int
    etag: str
    modified: datetime


class Store(Protocol):
    """Objects by key. Writes are atomic: a reader sees the old object or the new one, whole.

    Keys are `/`-separated UTF-8; they never start with `/` and have no parts `.` and `..`.

    Raises:
        LostWriteError: The condition of a write (`if_absent`, `if_match`) does not hold.
        NotFoundError: The object does not exist.
        InfrastructureError: The trouble may pass.
        HostError: The store cannot be read or written from here.
    """

    @property
    def url(self) -> str: ...

    @property
    def server(self) -> str:
        """The address of the server and what it calls itself; empty where only this process decides what a put does."""
        ...

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Write an object.

        Args:
            if_absent: Write only if no object has this key.
            if_match: Write only if the present object has this etag.
        """
        ...

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Write an object with the content of a file, on the same conditions as `put_bytes`."""
        ...

    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> AbstractContextManager[BinaryIO]:
        """Open the bytes from `start` to `stop`, which is excluded; `None` is the end. Nothing beyond the end is no
        error."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Look at an object without reading it; `None` when there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, sorted by key."""
        ...

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Return the sorted names directly below `prefix`, which ends with `/`, that have objects below them.

        Some servers go on naming a folder whose last object was deleted.
        """
        ...

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        """Copy an object within the store, with its media type."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in no particular order. Keys without an object are no error."""
        ...


def check_key(key: str) -> str:
    """Return `key` unchanged.

    Raises:
        VerificationError: `key` would leave the store, or is no key.
    """
    parts = key.split("/")
    if not key or any(part in {"", ".", ".."} for part in parts) or "\0" in key:
        raise VerificationError(f"{key!r} is not a key of a store", resolution="keys are relative and name no `..`")
    return key
