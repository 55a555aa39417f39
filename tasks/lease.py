"""Leases in the store: who wants a result that somebody else is just making waits for it, instead of making it too.

A lease saves work and nothing else: results are content-addressed, so two makers do no harm. It is an object
`leases/<cache key>.json` that its holder renews; the lease of one who died is taken over when it ends, or at once by
whoever can see that the process is gone.
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
from uuid import uuid4

import structlog

from coreimage.errors import ConflictError, CoreimageError, NotFoundError
from coreimage.model import JSON
from coreimage.storage import Store

log = structlog.get_logger("coreimage.lease")

TERM_S = 60.0
_POLL_S = 1.0


class Lease:
    """One holder's claim on `key`. `release` ends it; who cannot release it any more loses it `term_s` later.

    No clocks are compared: a lease whose object has not changed for `term_s` of a waiter's own time is nobody's.
    """

    def __init__(self, store: Store, key: str, *, term_s: float = TERM_S) -> None:
        self._store, self._place, self._term_s = store, f"leases/{key}.json", term_s
        self._holder, self._etag = uuid4().hex, ""
        self._seen, self._seen_since_s = "", 0.0
        self._released = threading.Event()

    def acquire(self, *, needless: Callable[[], bool] = lambda: False) -> bool:
        """Waits until the lease is ours (True), or until `needless` says that nobody needs it any more (False)."""
        waited = False
        while not needless():
            if self._taken():
                threading.Thread(target=self._renew, daemon=True).start()
                return True
            if not waited:
                log.info("another run is making this; waiting for it", lease=self._place)
                waited = True
            time.sleep(min(_POLL_S, self._term_s / 4))
        return False

    def release(self) -> None:
        """Nobody else's lease is touched."""
        self._released.set()
        with suppress(CoreimageError):
            found = self._store.head(self._place)
            if found and found.etag == self._etag:
                self._store.delete([self._place])

    def _taken(self) -> bool:
        found = self._store.head(self._place)
        etag = found.etag if found else ""
        if etag != self._seen:
            self._seen, self._seen_since_s = etag, time.monotonic()
        if etag and time.monotonic() < self._seen_since_s + self._term_s and not self._holder_is_gone():
            return False
        return self._put(if_match=etag)

    def _holder_is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended; of others nothing is known."""
        with suppress(NotFoundError, ValueError, KeyError, TypeError), self._store.open(self._place) as file:
            document = json.load(file)
            return bool(document["where"] == _where()) and _started(document["pid"]) != document["started"]
        return False

    def _put(self, *, if_match: str) -> bool:
        """Whether the object is ours now: it was absent, or had the etag `if_match`. Its bytes are new each time."""
        process = {"where": _where(), "pid": os.getpid(), "started": _started(os.getpid())}
        document = json.dumps({"holder": self._holder, "renewed": time.time(), **process}).encode()
        with suppress(ConflictError, NotFoundError):
            put = partial(self._store.put_bytes, self._place, document, media_type=JSON)
            self._etag = put(if_match=if_match).etag if if_match else put(if_absent=True).etag
            return True
        return False

    def _renew(self) -> None:
        while not self._released.wait(self._term_s / 3):
            try:
                if not self._put(if_match=self._etag):
                    log.warning("the lease went to another run", lease=self._place)
                    return
            except CoreimageError as error:
                log.warning("the lease could not be renewed", lease=self._place, why=error.problem)


@cache
def _where() -> str:
    """Where process ids mean the same: this start of this machine, and our namespace of them."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str:
    """Tells processes apart that had one id one after the other (proc(5), stat, field 22); empty: there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    return ""


class LeaseManager:
    """Prefect's protocol for locks (prefect.locking.protocol.LockManager), for tasks of which there should be one.

    `announce` says before each use where the result will be, and how to tell that it is there: then nothing is locked.
    """

    def __init__(self) -> None:
        self._announced: dict[str, tuple[Store, Callable[[], bool]]] = {}
        self._held: dict[str, Lease] = {}

    def __deepcopy__(self, memo: object) -> LeaseManager:
        """Prefect copies policies; the leases stay with this one."""
        return self

    def announce(self, key: str, store: Store, needless: Callable[[], bool]) -> None:
        self._announced[key] = store, needless

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        store, needless = self._announced[key]
        lease = Lease(store, key)
        if lease.acquire(needless=needless):
            self._held[key] = lease
        return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        return self.acquire_lock(key, holder)

    def release_lock(self, key: str, holder: str) -> None:
        if key in self._held:
            self._held.pop(key).release()

    def is_locked(self, key: str) -> bool:
        """Writing is never forbidden: the same key has the same content."""
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        return True

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        return True
