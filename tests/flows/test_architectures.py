"""Architectures side by side: who goes on when one fails, how a deadline and an interrupt end what runs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import structlog
from prefect import flow

from coreimage import logs
from coreimage.errors import BuildError
from coreimage.host.process import run
from flows.running.architecture import ArchitectureBuild, succeeded
from flows.running.local import LocalTaskRunner
from tasks.factory import live_task

_LONG_S = 600.0


@live_task(quiet=True)
def work(function: Callable[[], Any]) -> Any:
    """What the test wants done."""
    return function()


def side_by_side(works: Mapping[ArchitectureBuild, Callable[[], Any]]) -> dict[ArchitectureBuild, Any]:
    """The results of the architectures that succeed, each of one task."""
    results: dict[ArchitectureBuild, Any] = {}

    @flow(name="builds", task_runner=LocalTaskRunner())
    def builds() -> None:
        futures = {}
        for build, function in works.items():
            with build.scope():
                futures[build] = work.submit(function)
        results.update({build: futures[build].result() for build in succeeded(tuple(works))})

    builds()
    return results


def architectures(
    *, arm64_required: bool = False, deadline_s: float = _LONG_S
) -> tuple[ArchitectureBuild, ArchitectureBuild]:
    return (
        ArchitectureBuild("amd64", _LONG_S, required=True, labelled=True),
        ArchitectureBuild("arm64", deadline_s, required=arm64_required, labelled=True),
    )


def fail() -> str:
    raise BuildError("a package is broken")


def sleep(up: Callable[[], object] = lambda: None) -> str:
    def tell(_: str) -> None:
        up()

    run(["sh", "-c", "echo up; exec sleep 600"], on_line=tell)
    return "slept"


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in {"amd64", "arm64"}]


def test_they_run_at_the_same_time() -> None:
    meet = threading.Barrier(2, timeout=60)
    amd64, arm64 = architectures()
    met = side_by_side(dict.fromkeys((amd64, arm64), meet.wait))
    assert sorted(met.values()) == [0, 1]
    assert not threads()


def test_a_best_effort_failure_does_not_stop_the_others() -> None:
    amd64, arm64 = architectures()
    works: dict[ArchitectureBuild, Callable[[], str]] = {arm64: fail, amd64: lambda: "built"}
    assert side_by_side(works) == {amd64: "built"}
    assert arm64.outcome().failure == "a package is broken"
    assert amd64.outcome().failure == ""


def test_a_required_failure_ends_the_others_at_once() -> None:
    amd64, arm64 = architectures()
    up = threading.Event()

    def fail_later() -> str:
        assert up.wait(60)
        return fail()

    with pytest.raises(BuildError, match="broken"):
        side_by_side({amd64: fail_later, arm64: lambda: sleep(up.set)})
    assert not threads()


def test_after_a_failure_nothing_more_of_an_architecture_is_begun() -> None:
    amd64, arm64 = architectures()
    begun: list[str] = []

    @flow(name="one-after-the-other", task_runner=LocalTaskRunner())
    def builds() -> None:
        for build in (amd64, arm64):
            with build.scope():
                work.submit(fail if build is arm64 else partial(begun.append, "amd64 first"))
                work.submit(partial(begun.append, f"{build.architecture} second"))
        assert succeeded((amd64, arm64)) == (amd64,)

    builds()
    assert begun == ["amd64 first", "amd64 second"]


def test_a_deadline_ends_its_own_architecture_alone() -> None:
    amd64, arm64 = architectures(deadline_s=0.5)
    assert side_by_side({amd64: lambda: "built", arm64: sleep}) == {amd64: "built"}
    assert "arm64 was not done within" in arm64.outcome().failure
    assert "deadline_minutes" in arm64.outcome().failure


def test_time_that_an_architecture_waits_for_others_is_not_counted() -> None:
    amd64, arm64 = architectures()

    @flow(name="waits", task_runner=LocalTaskRunner())
    def waits() -> None:
        with amd64.scope():
            first = work.submit(partial(time.sleep, 0.5))
        with arm64.scope():
            work.submit(lambda: None)
            work.submit(partial(len, [first]))
        succeeded((amd64, arm64))

    waits()
    assert amd64.left_s <= _LONG_S - 0.5
    assert _LONG_S - 0.5 < arm64.left_s < _LONG_S


def test_an_interrupt_ends_all() -> None:
    up = threading.Barrier(2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        side_by_side(dict.fromkeys(architectures(), partial(sleep, up.wait)))
    assert not threads()


def test_each_has_a_log_of_its_own() -> None:
    logs.configure()
    amd64, arm64 = architectures()

    def say(words: str) -> str:
        structlog.get_logger("coreimage.test").info(words)
        return words

    side_by_side({amd64: partial(say, "native"), arm64: partial(say, "emulated")})
    text = arm64.outcome().log
    assert "emulated architecture=arm64" in text
    assert "native" not in text
