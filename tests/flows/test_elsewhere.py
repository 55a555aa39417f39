"""A build whose steps other workers take: real runs of `take-step`, and a thread that is the worker."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_engine import run_flow
from prefect.states import Crashed

from coreimage.errors import BuildError
from coreimage.process import Family
from flows import elsewhere
from flows.build import build_channel
from flows.elsewhere import SPREAD, take_step
from flows.result import BuildResult
from tasks import rootfs as chroots
from tests.flows.test_build import BETA, CHANNEL, Rooms, Spec, rooms
from tests.harness.workshop import wait_until

__all__ = ["rooms"]
CHROOTS = ["build-rootfs", "build-device"]
ELSEWHERE = [*CHROOTS, "boot-test"]
_WITHIN_S = 120.0


class Worker:
    """Begins the runs of a deployment as they come, one at a time. The first `lost` of them it loses."""

    def __init__(self, deployment: str, client: SyncPrefectClient) -> None:
        self.deployment, self.lost, self.taken = deployment, 0, list[str]()
        self.free = threading.Event()
        self.free.set()
        self._client, self._ended = client, threading.Event()

    def work(self) -> None:
        while not self._ended.wait(0.05):
            for run in self.waiting():
                self.free.wait()
                if not self._ended.is_set():
                    self._take(run)

    def waiting(self) -> list[FlowRun]:
        """Runs that nobody has begun."""
        of = DeploymentFilter(name=DeploymentFilterName(any_=[self.deployment.rpartition("/")[2]]))
        runs = self._client.read_flow_runs(deployment_filter=of)
        return [run for run in runs if run.state_type is StateType.SCHEDULED]

    def end(self) -> None:
        self._ended.set()
        self.free.set()

    def _take(self, run: FlowRun) -> None:
        self.taken.append(run.parameters["step"])
        if self.lost:
            self.lost -= 1
            self._client.set_flow_run_state(run.id, Crashed(message="the machine is gone"), force=True)
        else:
            run_flow(take_step, flow_run=run, parameters=run.parameters, return_type="state")


@pytest.fixture
def worker(tmp_path: Path, rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(elsewhere, "_POLL_S", 0.1)
    monkeypatch.setattr(chroots, "RootfsSpec", Spec)
    monkeypatch.setattr(chroots, "DeviceSpec", Spec)
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name(take_step.name)
        client.create_deployment(flow_id, tmp_path.name)
        made = Worker(f"{take_step.name}/{tmp_path.name}", client)
        monkeypatch.setenv(SPREAD, made.deployment)
        monkeypatch.setenv("COREIMAGE_STORE", str(tmp_path / "store"))
        thread = threading.Thread(target=contextvars.copy_context().run, args=(made.work,))
        thread.start()
        try:
            yield made
        finally:
            made.end()
            thread.join()


@pytest.fixture
def build(tmp_path: Path, rooms: Rooms) -> Callable[..., BuildResult]:
    def run(channel: str = CHANNEL, **options: Any) -> BuildResult:
        result: BuildResult = build_channel(
            channel, project_file=str(tmp_path / "tiny.yaml"), store_url=str(tmp_path / "store"), **options
        )
        return result

    return run


def of_elsewhere(result: BuildResult) -> dict[str, bool]:
    """Whether each step that is taken elsewhere was remembered."""
    return {step.name: step.cached for step in result.steps if step.name in ELSEWHERE}


def test_what_another_worker_did_for_a_run_is_not_called_remembered(
    worker: Worker, build: Callable[..., BuildResult]
) -> None:
    assert of_elsewhere(build()) == dict.fromkeys(ELSEWHERE, False)
    taken = list(worker.taken)
    again = build()
    assert of_elsewhere(again) == dict.fromkeys(ELSEWHERE, True)
    assert again.unchanged
    assert taken == ELSEWHERE
    assert worker.taken == taken, "what is remembered is given to nobody"


def test_a_refresh_does_each_step_elsewhere_once(
    worker: Worker, rooms: Rooms, build: Callable[..., BuildResult]
) -> None:
    build()
    rooms.calls.clear()
    assert of_elsewhere(build(refresh=True)) == dict.fromkeys(ELSEWHERE, False)
    assert [rooms.calls.count(name) for name in ("rootfs", "device", "boot bios")] == [1, 1, 1]


def test_a_step_that_is_lost_is_given_away_again(worker: Worker, build: Callable[..., BuildResult]) -> None:
    worker.lost = 2
    assert [device.release.version for device in build().devices] == [1]
    assert len(worker.taken) == len(ELSEWHERE) + 2


def test_who_gives_up_cancels_what_others_do_for_it(worker: Worker, build: Callable[..., BuildResult]) -> None:
    """So it is for an architecture whose time is over, and for a run of several that is cancelled."""
    worker.free.clear()
    family = Family()

    def give_up() -> None:
        wait_until(lambda: len(worker.waiting()) == len(CHROOTS), _WITHIN_S, "the steps")
        family.end(BuildError("its time is over"))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(give_up,))
    thread.start()
    with family.joined(), pytest.raises(BuildError, match="its time is over"):
        build()
    thread.join()
    assert worker.waiting() == []


def test_what_two_channels_want_at_the_same_time_is_one_run(
    worker: Worker, build: Callable[..., BuildResult], caplog: pytest.LogCaptureFixture
) -> None:
    worker.free.clear()
    results: dict[str, BuildResult] = {}

    first = started(build, CHANNEL, results)
    wait_until(lambda: len(worker.waiting()) == len(CHROOTS), _WITHIN_S, "the steps of one channel")
    second = started(build, BETA, results)
    wait_until(lambda: caplog.text.count("waiting for it") == len(CHROOTS), _WITHIN_S, "the other channel")
    worker.free.set()
    first.join()
    second.join()

    assert [step for step in worker.taken if step in CHROOTS] == CHROOTS
    assert len(results) == 2
    for result in results.values():
        assert of_elsewhere(result) == dict.fromkeys(ELSEWHERE, False)


def test_what_two_channels_begin_at_the_same_moment_is_one_run(
    worker: Worker, build: Callable[..., BuildResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has begun anything when both have looked."""
    worker.free.clear()
    looked, both, look = list[object](), threading.Barrier(2), elsewhere._Errand._newest

    def look_together(*arguments: Any) -> FlowRun | None:
        found = look(*arguments)
        if not worker.free.is_set():
            both.wait(_WITHIN_S)
            looked.append(found)
        return found

    monkeypatch.setattr(elsewhere._Errand, "_newest", look_together)
    results: dict[str, BuildResult] = {}
    threads = [started(build, channel, results) for channel in (CHANNEL, BETA)]
    wait_until(lambda: len(looked) == 2 * len(CHROOTS), _WITHIN_S, "the looks of both")
    wait_until(lambda: len(worker.waiting()) == len(CHROOTS), _WITHIN_S, "their steps")
    worker.free.set()
    for thread in threads:
        thread.join()

    assert looked == [None] * len(looked)
    assert [step for step in worker.taken if step in CHROOTS] == CHROOTS
    assert len(results) == 2


def started(build: Callable[..., BuildResult], channel: str, results: dict[str, BuildResult]) -> threading.Thread:
    def built() -> None:
        results[channel] = build(channel)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(built,))
    thread.start()
    return thread
