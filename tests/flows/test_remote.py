"""A build whose tasks other workers run: real runs of `run-task`, and a thread that is the worker."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_engine import run_flow
from prefect.states import Crashed

from coreimage.errors import BuildError
from coreimage.host.children import ChildGroup
from flows.build import build_channel
from flows.report.result import BuildResult
from flows.running import remote
from flows.running.remote import RemoteTaskRunner, run_task
from tasks import rootfs as chroots
from tests.flows.test_build import BETA, CHANNEL, OfDevice, Rooms, Spec, rooms
from tests.harness.workshop import wait_until

__all__ = ["rooms"]
CHROOTS = ["build-rootfs", "build-device"]
REMOTE = [*CHROOTS, "boot-test"]
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Begins nothing as long as the block goes on."""
        self.free.clear()
        try:
            yield
        finally:
            self.free.set()

    def waiting(self) -> list[FlowRun]:
        """Runs that nobody has begun."""
        of = DeploymentFilter(name=DeploymentFilterName(any_=[self.deployment.rpartition("/")[2]]))
        runs = self._client.read_flow_runs(deployment_filter=of)
        return [run for run in runs if run.state_type is StateType.SCHEDULED]

    def end(self) -> None:
        self._ended.set()
        self.free.set()

    def _take(self, run: FlowRun) -> None:
        self.taken.append(run.parameters["task"])
        if self.lost:
            self.lost -= 1
            self._client.set_flow_run_state(run.id, Crashed(message="the machine is gone"), force=True)
        else:
            run_flow(run_task, flow_run=run, parameters=run.parameters, return_type="state")


@pytest.fixture
def worker(tmp_path: Path, rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(remote, "_POLL_S", 0.1)
    monkeypatch.setattr(chroots, "RootfsSpec", Spec)
    monkeypatch.setattr(chroots, "DeviceSpec", OfDevice)
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name(run_task.name)
        client.create_deployment(flow_id, tmp_path.name)
        made = Worker(f"{run_task.name}/{tmp_path.name}", client)
        monkeypatch.setenv("COREIMAGE_STORE", str(tmp_path / "store"))
        thread = threading.Thread(target=contextvars.copy_context().run, args=(made.work,))
        thread.start()
        try:
            yield made
        finally:
            made.end()
            thread.join()


@pytest.fixture
def build(tmp_path: Path, worker: Worker) -> Callable[..., BuildResult]:
    remotely = build_channel.with_options(task_runner=RemoteTaskRunner(worker.deployment))

    def run(channel: str = CHANNEL, **options: Any) -> BuildResult:
        result: BuildResult = remotely(
            channel, project_file=str(tmp_path / "tiny.yaml"), store_url=str(tmp_path / "store"), **options
        )
        return result

    return run


def remembered(result: BuildResult) -> dict[str, bool]:
    """Whether the result of each task that other workers run was remembered."""
    return {task.name: task.cached for task in result.tasks if task.name in REMOTE}


def test_what_another_worker_did_for_a_run_is_not_called_remembered(
    worker: Worker, build: Callable[..., BuildResult]
) -> None:
    assert remembered(build()) == dict.fromkeys(REMOTE, False)
    taken = list(worker.taken)
    again = build()
    assert remembered(again) == dict.fromkeys(REMOTE, True)
    assert again.unchanged
    assert sorted(taken) == sorted(REMOTE)
    assert worker.taken == taken, "what is remembered is given to nobody"


def test_a_refresh_runs_each_remote_task_once(worker: Worker, rooms: Rooms, build: Callable[..., BuildResult]) -> None:
    build()
    rooms.calls.clear()
    assert remembered(build(refresh=True)) == dict.fromkeys(REMOTE, False)
    assert [rooms.calls.count(name) for name in ("rootfs", "device", "boot bios")] == [1, 1, 1]


def test_a_task_that_is_lost_is_given_away_again(worker: Worker, build: Callable[..., BuildResult]) -> None:
    worker.lost = 2
    assert [device.release.version for device in build().devices] == [1]
    assert len(worker.taken) == len(REMOTE) + 2


def test_who_gives_up_cancels_what_others_do_for_it(worker: Worker, build: Callable[..., BuildResult]) -> None:
    """So it is for an architecture whose time is over, and for a run of several that is cancelled."""
    worker.free.clear()
    family = ChildGroup()

    def give_up() -> None:
        wait_until(lambda: len(worker.waiting()) == len(CHROOTS), _WITHIN_S, "the tasks")
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
    with ThreadPoolExecutor() as threads, worker.paused():
        first = started(build, CHANNEL, threads)
        wait_until(lambda: len(worker.waiting()) == len(CHROOTS), _WITHIN_S, "the tasks of one channel")
        second = started(build, BETA, threads)
        wait_until(lambda: caplog.text.count("waiting for it") == len(CHROOTS), _WITHIN_S, "the other channel")

    assert sorted(task for task in worker.taken if task in CHROOTS) == sorted(CHROOTS)
    for result in (first.result(), second.result()):
        assert remembered(result) == dict.fromkeys(REMOTE, False)


def test_what_two_channels_begin_at_the_same_moment_is_one_run(
    worker: Worker, build: Callable[..., BuildResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has begun anything when both have looked."""
    looked, look = list[object](), remote._RemoteRun._newest
    both: dict[str, threading.Barrier] = {}

    def look_together(run: remote._RemoteRun, *arguments: Any) -> FlowRun | None:
        found = look(run, *arguments)
        if not worker.free.is_set():
            both.setdefault(run._inputs.key, threading.Barrier(2)).wait(_WITHIN_S)
            looked.append(found)
        return found

    monkeypatch.setattr(remote._RemoteRun, "_newest", look_together)
    with ThreadPoolExecutor() as threads, worker.paused():
        builds = [started(build, channel, threads) for channel in (CHANNEL, BETA)]
        wait_until(lambda: len(looked) == 2 * len(CHROOTS), _WITHIN_S, "the looks of both")
        wait_until(lambda: len(worker.waiting()) == len(CHROOTS), _WITHIN_S, "their tasks")

    assert looked == [None] * len(looked)
    assert sorted(task for task in worker.taken if task in CHROOTS) == sorted(CHROOTS)
    assert {future.result().channel for future in builds} == {CHANNEL, BETA}


def started(build: Callable[..., BuildResult], channel: str, threads: ThreadPoolExecutor) -> Future[BuildResult]:
    """A build in a thread of its own; the result raises what the build raised."""
    return threads.submit(contextvars.copy_context().run, build, channel)
