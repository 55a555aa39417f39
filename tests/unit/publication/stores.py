"""Stores that do something at each call: let others in between, or die."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from coreimage.storage import ObjectInfo, Store


class Killed(BaseException):
    """Like a kill, nothing catches it."""


class WatchedStore:
    """Calls `before(operation, key)` before and `after(operation, key)` after each call of the store below it."""

    def __init__(
        self,
        store: Store,
        before: Callable[[str, str], None] = lambda operation, key: None,
        after: Callable[[str, str], None] = lambda operation, key: None,
    ) -> None:
        self._store, self._before, self._after = store, before, after

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def server(self) -> str:
        return self._store.server

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        self._before("put_bytes", key)
        info = self._store.put_bytes(key, content, media_type=media_type, if_absent=if_absent, if_match=if_match)
        self._after("put_bytes", key)
        return info

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        self._before("put_file", key)
        info = self._store.put_file(key, path, media_type=media_type, if_absent=if_absent, if_match=if_match)
        self._after("put_file", key)
        return info

    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> AbstractContextManager[BinaryIO]:
        self._before("open", key)
        return self._store.open(key, start=start, stop=stop)

    def head(self, key: str) -> ObjectInfo | None:
        self._before("head", key)
        return self._store.head(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._before("list", prefix)
        return self._store.list(prefix)

    def folders(self, prefix: str) -> tuple[str, ...]:
        self._before("folders", prefix)
        return self._store.folders(prefix)

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        self._before("copy", target)
        info = self._store.copy(source, target, if_absent=if_absent)
        self._after("copy", target)
        return info

    def delete(self, keys: Iterable[str]) -> None:
        # A store promises no order within one call: the worst one for readers is taken.
        for key in sorted(keys, key=lambda key: key.endswith("SHA256SUMS")):
            self._before("delete", key)
            self._store.delete([key])
            self._after("delete", key)


def killing_store(store: Store, call: int, *, before: bool, seen: Callable[[], None] = lambda: None) -> WatchedStore:
    """Dies at the `call`-th call (from 0), before or after its effect; `seen` looks at the store at every call."""
    begun, done = iter(range(1_000_000)), iter(range(1_000_000))

    def on_begin(operation: str, key: str) -> None:
        seen()
        if next(begun) == call and before:
            raise Killed

    def on_end(operation: str, key: str) -> None:
        seen()
        if next(done) == call and not before:
            raise Killed

    return WatchedStore(store, on_begin, on_end)
