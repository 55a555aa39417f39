"""Who gets a lease, by a clock of the test's own. tests/contract has the same with real stores, processes and time."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coreimage.errors import InfrastructureError
from coreimage.model import JSON
from coreimage.storage import ObjectInfo, read_bytes
from tasks.cache import lease as lease_module
from tasks.cache.lease import TERM_S, Lease, LeaseManager
from tests.harness.memory_store import MemoryStore

KEY = "leases/key.json"
WAIT_S = 60
"""How long something that comes at once is awaited before the test has failed."""


class Clock:
    """What a lease uses of the module `time`; nobody really sleeps. `on_sleep` is what others do meanwhile."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        self.on_sleep()


class Store(MemoryStore):
    """A store that tells of each lease that is written, and refuses to write when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.puts = 0
        self.is_down = False
        self._told = threading.Condition()

    def put_bytes(self, key: str, content: bytes, **options: Any) -> ObjectInfo:
        try:
            if self.is_down:
                raise InfrastructureError("503")
            return super().put_bytes(key, content, **options)
        finally:
            with self._told:
                self.puts += 1
                self._told.notify_all()

    def wait_for_puts(self, count: int) -> None:
        """Wait until it was tried `count` times to write."""
        with self._told:
            assert self._told.wait_for(lambda: self.puts >= count, WAIT_S)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease_module, "time", clock)
    return clock


@pytest.fixture
def store() -> Store:
    return Store()


def document(store: Store) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read_bytes(store, KEY) or b"")
    return content


def put(store: Store, **changes: object) -> None:
    """Write a lease as a living process of this machine does, with changes."""
    process = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    where = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    values = {"holder": "other", "renewed": 1.0, "where": where, "pid": os.getpid(), "started": process[19]}
    store.put_bytes(KEY, json.dumps({**values, **changes}).encode(), media_type=JSON)


def test_a_free_lease_is_taken_at_once_and_given_back(store: Store, clock: Clock) -> None:
    lease = Lease(store, "key")
    assert lease.acquire()
    taken = document(store)
    put(store, holder=taken["holder"], renewed=clock.now_s)
    assert document(store) == taken, "a lease names its process"
    assert (len(taken["holder"]), clock.slept) == (32, [])


def test_only_the_lease_that_is_ours_is_given_back(store: Store, clock: Clock) -> None:
    lease = Lease(store, "key")
    assert lease.acquire()
    lease.release()
    assert store.head(KEY) is None
    lease.release()
    other = Lease(store, "key")
    assert other.acquire()
    lease.release()
    assert store.head(KEY), "the lease of the other"
    other.release()
    assert store.head(KEY) is None


def test_nothing_is_taken_that_nobody_needs(store: Store, clock: Clock) -> None:
    assert not Lease(store, "key").acquire(needless=lambda: True)
    assert (store.head(KEY), clock.slept) == (None, [])


@pytest.mark.parametrize(("term_s", "pause_s"), [(TERM_S, 1.0), (2.0, 0.5)])
def test_the_lease_of_who_lives_is_waited_for(term_s: float, pause_s: float, store: Store, clock: Clock) -> None:
    put(store)
    answers = iter([False, False, False, True])
    assert not Lease(store, "key", term_s=term_s).acquire(needless=lambda: next(answers))
    assert clock.slept == [pause_s] * 3
    assert document(store)["holder"] == "other"


def test_a_lease_that_is_given_back_meanwhile_is_taken(store: Store, clock: Clock) -> None:
    put(store)
    clock.on_sleep = lambda: store.delete([KEY])
    assert Lease(store, "key").acquire()
    assert clock.slept == [1.0]


def test_the_lease_of_another_machine_is_taken_over_when_it_is_not_renewed_for_its_term(
    store: Store, clock: Clock
) -> None:
    """Nothing is known of processes elsewhere: only time tells."""
    put(store, where="another machine")
    assert Lease(store, "key", term_s=4.0).acquire()
    assert clock.slept == [1.0] * 4
    assert document(store)["holder"] != "other"


def test_a_lease_that_cannot_be_read_is_taken_over_after_its_term(store: Store, clock: Clock) -> None:
    for content in (b"", b"[]", b"{}"):
        store.put_bytes(KEY, content, media_type=JSON)
        clock.slept.clear()
        lease = Lease(store, "key", term_s=2.0)
        assert lease.acquire()
        assert clock.slept == [0.5] * 4
        lease.release()


def test_each_renewal_begins_the_term_anew(store: Store, clock: Clock) -> None:
    put(store, where="another machine")

    def renew() -> None:
        if len(clock.slept) <= 6:
            put(store, where="another machine", renewed=clock.now_s)

    clock.on_sleep = renew
    assert Lease(store, "key", term_s=4.0).acquire()
    assert len(clock.slept) == 6 + 4


@pytest.mark.parametrize("changes", [{"started": "1"}, {"pid": 2**22 + 1}])
def test_a_process_of_this_machine_that_ended_is_not_waited_for(
    changes: dict[str, object], store: Store, clock: Clock
) -> None:
    """Also where another process has got its number since."""
    put(store, **changes)
    assert Lease(store, "key").acquire()
    assert clock.slept == []


def test_of_two_who_are_as_fast_one_gets_it(clock: Clock) -> None:
    """The other one writes between our look and our writing: when it was free, and when its term was over."""

    class Racing(Store):
        def head(self, key: str) -> ObjectInfo | None:
            info = super().head(key)
            if clock.now_s in {1000.0, 1005.0}:
                put(self, where="another machine", renewed=clock.now_s)
            return info

    store = Racing()
    assert not Lease(store, "key", term_s=4.0).acquire(needless=lambda: clock.now_s > 1009.0)
    assert document(store)["holder"] == "other"
    assert Lease(store, "key", term_s=4.0).acquire()


def test_a_held_lease_is_renewed_also_after_a_failure(store: Store) -> None:
    lease = Lease(store, "key", term_s=0.01)
    assert lease.acquire()
    first = store.head(KEY)
    store.wait_for_puts(3)
    store.is_down = True
    store.wait_for_puts(store.puts + 2)
    store.is_down = False
    store.wait_for_puts(store.puts + 2)
    renewed = store.head(KEY)
    assert first
    assert renewed
    assert renewed.etag != first.etag
    lease.release()
    assert store.head(KEY) is None


def test_a_lease_that_went_to_another_is_renewed_no_more(store: Store, clock: Clock) -> None:
    threads = set(threading.enumerate())
    lease = Lease(store, "key", term_s=0.01)
    assert lease.acquire()
    (renewing,) = set(threading.enumerate()) - threads
    assert renewing.daemon, "it keeps no process alive"
    put(store)
    renewing.join(WAIT_S)
    assert not renewing.is_alive()
    lease.release()
    assert document(store)["holder"] == "other"


def test_giving_back_ends_the_renewals_and_fails_never(store: Store, clock: Clock) -> None:
    class Gone(Store):
        def delete(self, keys: object) -> None:
            raise InfrastructureError("503")

    threads = set(threading.enumerate())
    lease = Lease(Gone(), "key")
    assert lease.acquire()
    (renewing,) = set(threading.enumerate()) - threads
    lease.release()
    renewing.join(WAIT_S)
    assert not renewing.is_alive()


# Prefect's protocol


def test_the_manager_holds_what_is_needed_and_tells_of_what_is_there(store: Store, clock: Clock) -> None:
    manager, told = LeaseManager(), list[str]()
    manager.announce("key", store, lambda: False, lambda: told.append("key"))
    manager.announce("there", store, lambda: True, lambda: told.append("there"))
    assert manager.acquire_lock("key", "somebody")
    assert manager.acquire_lock("there", "somebody")
    assert told == ["there"]
    assert [info.key for info in store.list("leases/")] == [KEY]
    for key in ("key", "there", "key"):
        manager.release_lock(key, "somebody")
    assert not list(store.list("leases/"))


def test_the_manager_forbids_nothing_and_is_not_copied(store: Store, clock: Clock) -> None:
    manager = LeaseManager()
    manager.announce("key", store, lambda: False, lambda: None)
    assert asyncio.run(manager.aacquire_lock("key", "somebody"))
    assert store.head(KEY)
    assert not manager.is_locked("key")
    assert manager.is_lock_holder("key", "anybody")
    assert manager.wait_for_lock("key")
    assert asyncio.run(manager.await_for_lock("key"))
    assert manager.__deepcopy__(None) is manager
    manager.release_lock("key", "somebody")
