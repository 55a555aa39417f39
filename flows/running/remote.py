"""The task runner that runs tasks on other machines, each as a run of the flow `run-task` by a worker of `build`.

The machine that submits has the signing keys and runs no maintainer scripts; those that build have no keys. Values
travel as parameters, artifacts through the store, and the result of a task is remembered there. A task that another
build has submitted already is not submitted again: both builds wait for the same run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any, Self, cast, get_type_hints
from uuid import UUID

import structlog
from prefect import Task, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.futures import resolve_futures_to_results
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.states import Cancelling, Crashed
from pydantic import TypeAdapter

from coreimage import logs
from coreimage.errors import BuildError, InfrastructureError
from coreimage.host.children import check_cancelled
from coreimage.logs import story
from flows.running.futures import TaskCall
from flows.running.local import LocalTaskRunner
from tasks.boot_test import boot_test
from tasks.cache.policy import SITE, look_up
from tasks.factory import BuildTask, title_of
from tasks.progress import current_progress, made_by_another_worker
from tasks.rootfs import build_device, build_rootfs
from tasks.site import Site

log = structlog.get_logger("coreimage.remote")

TASKS: Mapping[str, BuildTask[..., Any]] = {task.name: task for task in (build_rootfs, build_device, boot_test)}
"""The tasks that run remotely. They need no signing key; an image is assembled where its checksums are signed."""
REMOTE_TASKS = "COREIMAGE_REMOTE_TASKS"
"""Environment variable with the deployment of `run_task`, `run-task/PROJECT`. Where it is not set, runs are local."""
_POLL_S = 1.0
_PENDING_S = 180.0
"""A run that a worker has taken and not begun within this time counts as lost with the worker."""
_ATTEMPTS = 3
_AT_ONCE = 200
"""How many runs one answer of the server holds at most; the others are asked for in the next poll."""
_UNFINISHED = frozenset({StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING})


@flow(name="run-task", flow_run_name="{task} {subject}", persist_result=False)
def run_task(
    task: str, subject: str, arguments: dict[str, Any], channel: str, refresh: bool = False, offline: bool = False
) -> None:
    """Run one task of a build for another run, which finds the result in the store.

    Args:
        task: The name of the task.
        subject: What the task is about, for people.
        arguments: The arguments of the task by name, as JSON.
        channel: The channel that is built.
        refresh: Run the task anew, even where its result is remembered.
        offline: Download nothing.
    """
    logs.configure()
    log.info("running a task for another run", task=task, subject=subject)
    chosen = TASKS[task]
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: refresh}):
        chosen(**loaded(chosen, arguments), site=Site.here(channel=channel, offline=offline))


def task_runner(environment: Mapping[str, str]) -> LocalTaskRunner:
    """Return the task runner that the environment of a worker asks for."""
    deployment = environment.get(REMOTE_TASKS)
    return RemoteTaskRunner(deployment) if deployment else LocalTaskRunner()


def dumped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's arguments as JSON values; the site is left out, since it is the worker's own."""
    return {
        name: TypeAdapter(type(value)).dump_python(value, mode="json")
        for name, value in arguments.items()
        if name != SITE
    }


def loaded(task: Task[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `dumped` wrote for this task."""
    hints = get_type_hints(task.fn)
    return {name: TypeAdapter(hints[name]).validate_python(value) for name, value in arguments.items()}


class RemoteTaskRunner(LocalTaskRunner):
    """Runs the tasks of `TASKS` on other workers, each as soon as its inputs exist, and all other tasks locally."""

    def __init__(self, deployment: str) -> None:
        """Prepare a runner; nothing is asked of the server yet.

        Args:
            deployment: The full name of the deployment of `run_task`.
        """
        super().__init__()
        self._deployment = deployment
        self._watch = _Watch()

    def duplicate(self) -> Self:
        return type(self)(self._deployment)

    def aside(self, task: Task[..., Any]) -> bool:
        return task.name in TASKS

    def run(self, call: TaskCall) -> State[Any]:
        if call.task.name not in TASKS or not call.wait():
            return super().run(call)
        arguments = resolve_futures_to_results(call.parameters)
        refresh = PREFECT_TASKS_REFRESH_CACHE.value()
        if not refresh and look_up(call.task, arguments).remembered:
            return super().run(call)
        start_s = time.monotonic()
        _RemoteRun(call.task, arguments, self._deployment, refresh=refresh).wait(self._watch)
        with (
            temporary_settings({PREFECT_TASKS_REFRESH_CACHE: False}),
            made_by_another_worker(time.monotonic() - start_s),
        ):
            return super().run(call)

    def __enter__(self) -> Self:
        super().__enter__()
        self._watch.start()
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        self._watch.end()


class _RemoteRun:
    """A task that runs on other workers: its flow run, and the further one when a run is lost with its worker."""

    def __init__(self, task: Task[..., Any], arguments: Mapping[str, Any], deployment: str, *, refresh: bool) -> None:
        self._task, self._arguments, self._deployment, self._refresh = task, arguments, deployment, refresh
        self._site = cast("Site", arguments[SITE])
        self._inputs = look_up(task, arguments).inputs
        self._title = title_of(task, arguments)
        self._attempts = 0
        self._pending_since_s: float | None = None

    def wait(self, watch: _Watch) -> None:
        """Submit the task, and wait until its run has completed.

        When the wait ends by an exception, such as a cancellation, a run that was submitted by this build is cancelled.

        Raises:
            BuildError: The task failed; the message is that of its run.
            InfrastructureError: Every attempt was lost with its worker.
        """
        story.info(f"{self._title}, on another worker...")
        current_progress().show(self._title)
        with get_client(sync_client=True) as client:
            run, own = self._begin(client)
            try:
                while not self._ended(state := watch.next(run)):
                    check_cancelled()
                    if self._lost(state):
                        client.set_flow_run_state(run, Crashed(message="no worker began it"), force=True)
                    elif state.type not in {StateType.CRASHED, StateType.CANCELLED}:
                        continue
                    log.warning("a task was lost with its worker", task=self._title, attempt=self._attempts)
                    run, own = self._begin(client)
            except BaseException:
                if own:
                    client.set_flow_run_state(run, Cancelling(message="the run that asked for it has ended"))
                raise

    def _ended(self, state: State[Any]) -> bool:
        if state.type is StateType.FAILED:
            raise BuildError(
                f"{self._title} failed on another worker: {state.message}",
                resolution="mend the cause, and retry this run",
            )
        return state.type is StateType.COMPLETED

    def _lost(self, state: State[Any]) -> bool:
        """Return whether a worker has taken the run and then never begun it."""
        if state.type is not StateType.PENDING:
            self._pending_since_s = None
            return False
        self._pending_since_s = self._pending_since_s or time.monotonic()
        return time.monotonic() > self._pending_since_s + _PENDING_S

    def _begin(self, client: SyncPrefectClient) -> tuple[UUID, bool]:
        """Submit the task, or join the unfinished run of the same task that another build has submitted.

        Returns:
            The id of the run, and whether this build submitted it. A run that two builds submitted at the same moment
            counts as submitted by both.

        Raises:
            InfrastructureError: Every attempt was lost with its worker.
        """
        if self._attempts == _ATTEMPTS:
            raise InfrastructureError(
                f"{self._title} was lost {self._attempts} times with its worker",
                resolution="look at the workers of the queue `build`",
            )
        self._attempts += 1
        self._pending_since_s = None
        deployment = client.read_deployment_by_name(self._deployment).id
        newest = None if self._refresh else self._newest(deployment, client)
        if newest and newest.state_type in _UNFINISHED:
            log.info("another build has had this begun; waiting for it", task=self._title, run=str(newest.id))
            return newest.id, False
        # Builds that submit at the same moment saw the same newest run: equal idempotency keys give them one new run.
        asked = self._attempt() if self._refresh else f"after {newest.id if newest else 'none'}"
        run = run_deployment(
            self._deployment,
            parameters={
                "task": self._task.name,
                "subject": self._inputs.subject,
                "arguments": dumped(self._arguments),
                "channel": self._site.channel,
                "refresh": self._refresh,
                "offline": self._site.offline,
            },
            timeout=0,
            tags=[self._inputs.key],
            idempotency_key=f"{self._deployment} {self._inputs.key} {asked}",
        )
        return cast("FlowRun", run).id, True

    def _newest(self, deployment: UUID, client: SyncPrefectClient) -> FlowRun | None:
        """Return the newest run of the same task with the same cache key, finished or not."""
        same = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[self._inputs.key]),
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
        )
        runs = client.read_flow_runs(flow_run_filter=same, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
        return runs[0] if runs else None

    def _attempt(self) -> str:
        """Name this attempt of this flow run: a refresh shares its run with no other build."""
        context = FlowRunContext.get()
        run = context.flow_run if context else None
        return f"{run.id} {run.run_count} {self._attempts}" if run else str(self._attempts)


class _Watch:
    """Polls the states of all remote runs that this flow run waits for, with one request a second."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._states: dict[UUID, State[Any] | None] = {}
        self._ended = threading.Event()
        self._error: Exception | None = None

    def start(self) -> None:
        threading.Thread(target=copy_context().run, args=(self._work,), name="remote-runs", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def next(self, run: UUID) -> State[Any]:
        """Wait for the next poll, and return the run's state in it; raise what the poll raised."""
        with self._condition:
            self._states[run] = None
            self._condition.wait_for(lambda: self._states[run] is not None or self._error)
            if self._error:
                raise self._error
            return self._states.pop(run)  # type: ignore[return-value]

    def _work(self) -> None:
        try:
            with get_client(sync_client=True) as client:
                while not self._ended.wait(_POLL_S):
                    with self._condition:
                        runs = [run for run, state in self._states.items() if state is None][:_AT_ONCE]
                    if not runs:
                        continue
                    answer = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=runs)))
                    with self._condition:
                        self._states |= {run.id: run.state for run in answer if run.id in self._states}
                        self._condition.notify_all()
        except Exception as error:
            with self._condition:
                self._error = error
                self._condition.notify_all()
