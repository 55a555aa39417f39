"""What every store can do. Keys are `/`-separated UTF-8, never starting with `/`, without `.` and `..` parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from coreimage.errors import UsageError, VerificationError


@dataclass(frozen=True)
class ObjectInfo:
    """`etag` changes whenever the bytes do, and is what `if_match` takes. `modified` is UTC."""

    key: str
    size_bytes: int
    etag: str
    modified: datetime


class Store(Protocol):
    """Writes are atomic: a reader sees the old object or the new one, whole.

    A lost condition (`if_absent`, `if_match`) raises `ConflictError`; a missing object `NotFoundError`;
    trouble that may pass `InfrastructureError`.
    """

    @property
    def url(self) -> str: ...

    @property
    def server(self) -> str:
        """Who answers: its address and what it calls itself. Empty where nobody but us decides what a put does."""
        ...

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo: ...

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo: ...

    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> AbstractContextManager[BinaryIO]:
        """Reads bytes `start` to `stop` (excluded; None is the end)."""
        ...

    def head(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, sorted by key."""
        ...

    def folders(self, prefix: str) -> tuple[str, ...]:
        """The names directly below `prefix`, which ends with `/`, that have objects below them; sorted.

        Some servers go on naming one that has none any more.
        """
        ...

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo: ...

    def delete(self, keys: Iterable[str]) -> None:
        """Absent keys are no error."""
        ...


def check_key(key: str) -> str:
    """The key itself. Raises VerificationError for one that would leave the store."""
    parts = key.split("/")
    if not key or any(part in {"", ".", ".."} for part in parts) or "\0" in key:
        raise VerificationError(f"{key!r} is not a key of a store", resolution="keys are relative and name no `..`")
    return key


def open_store(url: str) -> Store:
    """The store at `file://PATH`, a plain path, or `s3://BUCKET[/PREFIX]`."""
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        from coreimage.storage.s3 import S3Store  # noqa: PLC0415

        return S3Store(parts.netloc, parts.path)
    if "://" not in url or (parts.scheme == "file" and not parts.netloc):
        from coreimage.storage.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(Path(unquote(parts.path) if parts.scheme == "file" else url))
    raise UsageError(f"no store is known for {url!r}", resolution="use file:///DIR or s3://BUCKET/PREFIX")
