"""Architectures side by side: who goes on when one fails, how a deadline and an interrupt end what runs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import structlog

from coreimage import logs
from coreimage.errors import BuildError
from coreimage.process import run
from coreimage.storage import open_store, read_blob
from flows.lanes import Lane, side_by_side

_LONG_S = 600.0


def lanes(*, arm64_required: bool = False, deadline_s: float = _LONG_S) -> tuple[Lane, Lane]:
    return Lane("amd64", _LONG_S, required=True), Lane("arm64", deadline_s, required=arm64_required)


def fail() -> str:
    raise BuildError("a package is broken")


def sleep(up: Callable[[], object] = lambda: None) -> str:
    def said(_: str) -> None:
        up()

    run(["sh", "-c", "echo up; exec sleep 600"], on_line=said)
    return "slept"


def test_they_run_at_the_same_time() -> None:
    meet = threading.Barrier(2, timeout=60)
    amd64, arm64 = lanes()
    met = side_by_side(dict.fromkeys((amd64, arm64), meet.wait))
    assert sorted(met.values()) == [0, 1]


def test_a_best_effort_failure_does_not_stop_the_others() -> None:
    amd64, arm64 = lanes()
    works: dict[Lane, Callable[[], str]] = {arm64: fail, amd64: lambda: "built"}
    assert side_by_side(works) == {amd64: "built"}
    assert str(arm64.failure) == "a package is broken"
    assert amd64.failure is None


def test_a_required_failure_ends_the_others_at_once() -> None:
    amd64, arm64 = lanes()
    up = threading.Event()

    def fail_later() -> str:
        assert up.wait(60)
        return fail()

    with pytest.raises(BuildError, match="broken"):
        side_by_side({amd64: fail_later, arm64: lambda: sleep(up.set)})
    assert not [thread for thread in threading.enumerate() if thread.name == "arm64"]


def test_a_deadline_ends_its_own_architecture_alone() -> None:
    amd64, arm64 = lanes(deadline_s=0.5)
    assert side_by_side({amd64: lambda: "built", arm64: sleep}) == {amd64: "built"}
    assert "arm64 was not done within" in str(arm64.failure)
    assert "deadline_minutes" in str(arm64.failure)


def test_time_that_an_architecture_waits_for_others_is_not_counted() -> None:
    _, arm64 = lanes(deadline_s=_LONG_S)
    side_by_side({arm64: lambda: ""})
    left_s = arm64.left_s
    time.sleep(0.1)
    assert arm64.left_s == left_s
    assert left_s < _LONG_S


def test_an_interrupt_ends_all() -> None:
    amd64, arm64 = lanes()
    up = threading.Barrier(2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        side_by_side({lane: partial(sleep, up.wait) for lane in (amd64, arm64)})
    assert not [thread for thread in threading.enumerate() if thread.name in {"amd64", "arm64"}]


def test_each_has_a_log_of_its_own(tmp_path: Path) -> None:
    logs.configure()
    store = open_store(str(tmp_path))
    amd64, arm64 = lanes()

    def say(words: str) -> str:
        structlog.get_logger("coreimage.test").info(words)
        return words

    side_by_side({amd64: partial(say, "native"), arm64: partial(say, "emulated")})
    text = read_blob(store, arm64.store_log(store)).decode()
    assert "emulated architecture=arm64" in text
    assert "native" not in text
