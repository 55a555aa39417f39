"""Leases against real stores: one maker at a time, the dead make room, nobody ends another's."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coreimage.storage import Store, open_store
from tasks.cache.lease import Lease
from tests.harness.ordinary_user import ROOT_DIR
from tests.harness.s3 import S3Server

TERM_S = 2.0


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "directory":
        return open_store(str(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{server.bucket}/{tmp_path.name}")


def test_one_holder_at_a_time(store: Store) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        lease = Lease(store, "key", term_s=30)
        assert lease.acquire()
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.05)
        with lock:
            inside -= 1
        lease.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert store.head("leases/key.json") is None


def test_who_waits_stops_when_the_result_is_there(store: Store) -> None:
    holder = Lease(store, "key", term_s=30)
    assert holder.acquire()
    asked = iter([False, False, True])
    assert not Lease(store, "key", term_s=30).acquire(needless=lambda: next(asked))
    holder.release()


def test_a_held_lease_is_renewed_and_not_taken(store: Store) -> None:
    holder = Lease(store, "key", term_s=TERM_S)
    assert holder.acquire()
    first = store.head("leases/key.json")
    waiting = threading.Event()
    threading.Timer(3 * TERM_S, waiting.set).start()
    assert not Lease(store, "key", term_s=TERM_S).acquire(needless=waiting.is_set), "taken from under a live holder"
    renewed = store.head("leases/key.json")
    assert first
    assert renewed
    assert renewed.etag != first.etag
    holder.release()


HOLD = """
import sys, time
from coreimage.storage import open_store
from tasks.cache.lease import Lease
assert Lease(open_store(sys.argv[1]), "key", term_s=float(sys.argv[2])).acquire()
print("held", flush=True)
time.sleep(1000)
"""


def test_the_lease_of_the_dead_is_taken_over(store: Store) -> None:
    argv = [sys.executable, "-c", HOLD, store.url, str(TERM_S)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT_DIR) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        other.send_signal(signal.SIGKILL)
    mine = Lease(store, "key", term_s=TERM_S)
    assert mine.acquire()
    mine.release()


def test_a_dead_process_of_this_machine_is_not_waited_for(store: Store) -> None:
    argv = [sys.executable, "-c", HOLD, store.url, "3600"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT_DIR) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        tries = iter([False, False, True])
        assert not Lease(store, "key", term_s=3600).acquire(needless=lambda: next(tries)), "it lives"
        other.send_signal(signal.SIGKILL)
    mine = Lease(store, "key", term_s=3600)
    assert mine.acquire()
    mine.release()
