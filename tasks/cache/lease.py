"""Leases in the store: a run that needs a result which another run is just making waits for it.

A lease only saves work: results are content-addressed, so two makers of one do no harm. It is an object
`leases/<cache key>.json` that its holder renews. The lease of a process that died is taken over when it expires, or at
once by a waiter on the same machine, which sees that the process has ended.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import structlog

from coreimage.errors import CoreimageError, LostWriteError, NotFoundError
from coreimage.model import JSON
from coreimage.storage import Store

log = structlog.get_logger("coreimage.lease")

TERM_S = 60.0
_POLL_S = 1.0


class Lease:
    """The claim of one holder on a key. A holder that dies without releasing it loses it `term_s` later.

    No clocks are compared: a lease has expired when its object has not changed for `term_s` of the waiter's own time.
    """

    def __init__(self, store: Store, key: str, *, term_s: float = TERM_S) -> None:
        self._store, self._key, self._term_s = store, f"leases/{key}.json", term_s
        self._holder, self._etag = uuid4().hex, ""
        self._seen, self._seen_since_s = "", 0.0
        self._released = threading.Event()

    def acquire(self, *, needless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the lease is ours, or until it is needless.

        Args:
            needless: Returns whether the result that the lease is for exists already.

        Returns:
            Whether the lease is ours.
        """
        waited = False
        while not needless():
            if self._take():
                threading.Thread(target=self._renew, daemon=True).start()
                return True
            if not waited:
                log.info("another run is making this; waiting for it", lease=self._key)
                waited = True
            time.sleep(min(_POLL_S, self._term_s / 4))
        return False

    def release(self) -> None:
        """End our claim; a lease that another holder has taken over stays."""
        self._released.set()
        with suppress(CoreimageError):
            info = self._store.head(self._key)
            if info and info.etag == self._etag:
                self._store.delete([self._key])

    def _take(self) -> bool:
        """Try to make the lease ours; return whether it is."""
        info = self._store.head(self._key)
        etag = info.etag if info else ""
        if etag != self._seen:
            self._seen, self._seen_since_s = etag, time.monotonic()
        if etag and time.monotonic() < self._seen_since_s + self._term_s and not self._holder_is_gone():
            return False
        return self._put(if_match=etag)

    def _holder_is_gone(self) -> bool:
        """Return whether the holder is known to have ended, as a process of this machine."""
        with suppress(NotFoundError, ValueError, KeyError, TypeError), self._store.open(self._key) as file:
            document = json.load(file)
            return bool(document["where"] == _where()) and _started(document["pid"]) != document["started"]
        return False

    def _put(self, *, if_match: str) -> bool:
        """Write the lease if it is absent, or has the etag `if_match`; return whether it is ours now.

        Its bytes are new each time, so that waiters see that it was renewed.
        """
        process = {"where": _where(), "pid": os.getpid(), "started": _started(os.getpid())}
        document = json.dumps({"holder": self._holder, "renewed": time.time(), **process}).encode()
        with suppress(LostWriteError, NotFoundError):
            put = partial(self._store.put_bytes, self._key, document, media_type=JSON)
            self._etag = put(if_match=if_match).etag if if_match else put(if_absent=True).etag
            return True
        return False

    def _renew(self) -> None:
        while not self._released.wait(self._term_s / 3):
            try:
                if not self._put(if_match=self._etag):
                    log.warning("another run has taken the lease over; both go on", lease=self._key)
                    return
            except CoreimageError as error:
                log.warning("the lease could not be renewed", lease=self._key, why=error.problem)


@cache
def _where() -> str:
    """Return the scope in which process ids are unique: this boot of this machine, and our namespace of processes."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str:
    """Return when a process started (proc(5), stat, field 22), or "" when there is no such process.

    It distinguishes processes that had the same id one after the other.
    """
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    return ""


class _Announced(NamedTuple):
    """The arguments of `LeaseManager.announce`."""

    store: Store
    needless: Callable[[], bool]
    tell: Callable[[], None]


class LeaseManager:
    """The lock manager (prefect.locking.protocol.LockManager) of tasks that should not run twice at the same time."""

    def __init__(self) -> None:
        self._announced: dict[str, _Announced] = {}
        self._held: dict[str, Lease] = {}

    def __deepcopy__(self, memo: object) -> LeaseManager:
        """Prefect copies policies; the leases stay with this one."""
        return self

    def announce(self, key: str, store: Store, needless: Callable[[], bool], tell: Callable[[], None]) -> None:
        """Announce where the lease of a key is, before each use of the key.

        Args:
            key: The key of a result.
            store: The store with the lease.
            needless: Returns whether the result exists; then no lease is taken.
            tell: Called when the result exists, whether from the start or after another run has made it.
        """
        self._announced[key] = _Announced(store, needless, tell)

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        announced = self._announced[key]
        lease = Lease(announced.store, key)
        if lease.acquire(needless=announced.needless):
            self._held[key] = lease
        else:
            announced.tell()
        return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        return self.acquire_lock(key, holder)

    def release_lock(self, key: str, holder: str) -> None:
        if key in self._held:
            self._held.pop(key).release()

    def is_locked(self, key: str) -> bool:
        """Return False: writing is never forbidden, since the same key has the same content."""
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        return True

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        return True
