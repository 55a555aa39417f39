"""Kill at the n-th store call: does what remains on the store still hold, and does a second run mend it?

for_each_kill_point(make_store, action=lambda store: release(store), check=assert_readable)
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from coreimage.storage import ObjectInfo, Store

When = Literal["before", "after"]
T = TypeVar("T")


class Killed(BaseException):
    """Stands for SIGKILL: no `except Exception` may swallow it."""


def die() -> None:
    """The real thing, for actions that run in a process of their own."""
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise Killed


class KillStore:
    """Passes everything on to `store`, and calls `kill` before or after its `at`-th mutating call (from 1; 0: never).

    Once killed, every later call of any kind raises `Killed` too: a dead process touches nothing, not even in
    its `finally` blocks. `calls` counts the mutating calls; deleting several keys is one call per key.
    """

    def __init__(self, store: Store, at: int = 0, when: When = "before", kill: Callable[[], None] = _raise) -> None:
        self.store, self._at, self._when, self._kill = store, at, when, kill
        self._lock = threading.Lock()
        self._dead = False
        self.calls = 0

    @property
    def point(self) -> str:
        return f"kill {self._when} mutating store call {self._at}"

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def server(self) -> str:
        return self.store.server

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        return self._change(
            lambda: self.store.put_bytes(key, content, media_type=media_type, if_absent=if_absent, if_match=if_match)
        )

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        return self._change(
            lambda: self.store.put_file(key, path, media_type=media_type, if_absent=if_absent, if_match=if_match)
        )

    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> AbstractContextManager[BinaryIO]:
        self._alive()
        return self.store.open(key, start=start, stop=stop)

    def head(self, key: str) -> ObjectInfo | None:
        self._alive()
        return self.store.head(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._alive()
        return self.store.list(prefix)

    def folders(self, prefix: str) -> tuple[str, ...]:
        self._alive()
        return self.store.folders(prefix)

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        return self._change(lambda: self.store.copy(source, target, if_absent=if_absent))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._change(lambda key=key: self.store.delete([key]))  # type: ignore[misc]

    def _alive(self) -> None:
        if self._dead:
            raise Killed

    def _change(self, call: Callable[[], T]) -> T:
        with self._lock:
            self._alive()
            self.calls += 1
            mine = self.calls == self._at
            self._dead = mine
        if mine and self._when == "before":
            self._kill()
        result = call()
        if mine:
            self._kill()
        return result


def for_each_kill_point(
    make_store: Callable[[], Store],
    action: Callable[[Store], object],
    check: Callable[[Store], None],
    *,
    finished: Callable[[Store], None] | None = None,
    every: int = 1,
) -> int:
    """Kills `action` before and after each of its mutating store calls (`every` 3: each third), on a fresh
    `make_store()` each time.

    After every kill `check` must hold; then the action runs again to its end, and `check` and `finished` must hold.
    Gives the number of mutating calls.
    """
    counted = KillStore(make_store())
    action(counted)
    assert counted.calls, "the action never writes: there is nothing to kill"
    for at in range(1, counted.calls + 1, every):
        for when in ("before", "after"):
            _kill_once(KillStore(make_store(), at, when), action, check, finished or check)
    return counted.calls


def _kill_once(
    doomed: KillStore,
    action: Callable[[Store], object],
    check: Callable[[Store], None],
    finished: Callable[[Store], None],
) -> None:
    try:
        action(doomed)
    except Killed:
        pass
    else:
        raise AssertionError(f"{doomed.point} was survived: the kill was swallowed, or fewer calls made than before")
    try:
        check(doomed.store)
        action(doomed.store)
        check(doomed.store)
        finished(doomed.store)
    except Exception as error:
        error.add_note(doomed.point)
        raise
