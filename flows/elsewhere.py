"""Steps on other machines: a step is a run of its own, of the deployment `take-step`, on a worker of the queue `build`.

The machine that asks has the signing keys and runs nobody's scripts; those that build have no keys. What travels are
values and, through the store, artifacts: once a step is done elsewhere, it is remembered here. What another build has
just had begun is not begun again, but waited for.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints
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
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.results import ResultStore
from prefect.states import Cancelling, Crashed
from pydantic import TypeAdapter

from coreimage import logs
from coreimage.errors import BuildError, InfrastructureError
from coreimage.logs import story
from coreimage.process import require_wanted
from flows.steps import Planned, Steps
from tasks.boot_test import boot_test
from tasks.caching import SITE, ArtifactPolicy, missing_artifact
from tasks.inputs import Inputs
from tasks.rootfs import build_device, build_rootfs
from tasks.site import Site

P = ParamSpec("P")
R = TypeVar("R")
log = structlog.get_logger("coreimage.elsewhere")

SPREAD = "COREIMAGE_SPREAD"
"""Environment variable with the deployment that takes steps, `take-step/NAME`; without it a run takes its own steps."""
_STEPS: dict[str, Task[..., Any]] = {task.name: task for task in (build_rootfs, build_device, boot_test)}
"""Those that sign nothing. An image is assembled where its checksums are signed."""
_POLL_S = 1.0
_PENDING_S = 180.0
"""A run that was handed to a worker, and does not begin for so long, was lost with it."""
_ATTEMPTS = 3
_GOING_ON = frozenset({StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING})


@flow(name="take-step", flow_run_name="{step} {subject}", persist_result=False)
def take_step(
    step: str, subject: str, arguments: list[Any], channel: str, refresh: bool = False, offline: bool = False
) -> None:
    """Takes one step of a build for another run, which finds its result in the store.

    Args:
        step: Which.
        subject: What of, for people.
        arguments: Its arguments, as JSON.
        channel: What is being built.
        refresh: Do it anew, whatever is remembered.
        offline: Download nothing.
    """
    logs.configure()
    log.info("taking a step for another run", step=step, subject=subject)
    task = _STEPS[step]
    chosen = cast("Any", task.with_options(refresh_cache=True) if refresh else task)
    chosen(*loaded(task, arguments), site=Site.here(channel=channel, offline=offline))


def dumped(planned: Planned[Any]) -> list[Any]:
    """A step's arguments as JSON values; the site is left out, since it is the worker's own."""
    return [TypeAdapter(type(value)).dump_python(value, mode="json") for value in planned.arguments]


def loaded(task: Task[..., Any], arguments: Sequence[Any]) -> list[Any]:
    hints = get_type_hints(task.fn)
    names = [name for name in inspect.signature(task.fn).parameters if name != SITE]
    return [TypeAdapter(hints[name]).validate_python(value) for name, value in zip(names, arguments, strict=True)]


class Spread(Steps):
    """Steps that need no signing key are taken elsewhere, those that do not wait for each other side by side."""

    def __init__(self, deployment: str, *, refresh: bool, expected: int = 0) -> None:
        super().__init__(refresh=refresh, expected=expected)
        self._deployment = deployment
        self._took_s: dict[str, float] = {}
        """By its key, what a step took elsewhere in this run."""

    def take(self, title: str, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        planned = Planned(title, task, args, kwargs)
        if task.name not in _STEPS:
            return self._take(planned)
        self._elsewhere([planned])
        return self._take(planned, self._took_s.get(_Errand(planned, self._refresh).inputs.key))

    def ahead(self, *planned: Planned[Any]) -> None:
        self._elsewhere([step for step in planned if step.task.name in _STEPS])

    def _elsewhere(self, planned: Sequence[Planned[Any]]) -> None:
        errands = [_Errand(step, self._refresh) for step in planned]
        errands = [errand for errand in errands if errand.inputs.key not in self._took_s and not errand.done()]
        if not errands:
            return
        story.info(f"{len(errands)} steps on other workers: {', '.join(errand.planned.title for errand in errands)}")
        self._progress.show(errands[0].planned.title)
        with get_client(sync_client=True) as client:
            _run_all({errand.inputs.key: errand for errand in errands}, self._deployment, client)
        self._took_s |= {errand.inputs.key: errand.took_s for errand in errands}

    def _anew(self, task: Task[..., Any]) -> bool:
        return self._refresh and task.name not in _STEPS


@dataclass
class _Errand:
    """A step on its way."""

    planned: Planned[Any]
    refresh: bool
    attempts: int = 0
    run: UUID | None = None
    own: bool = True
    """Whether the run was begun for this build; one that two builds began at the same moment is of both."""
    pending_since_s: float | None = field(default=None)
    begun_s: float = field(default_factory=time.monotonic)
    took_s: float = 0.0

    @property
    def site(self) -> Site:
        return cast("Site", self.planned.keywords[SITE])

    @cached_property
    def inputs(self) -> Inputs:
        policy = self.planned.task.cache_policy
        assert isinstance(policy, ArtifactPolicy)  # noqa: S101
        bound = inspect.signature(self.planned.task.fn).bind(*self.planned.arguments, **self.planned.keywords)
        return policy.inputs(self.planned.task.name, bound.arguments)

    def done(self) -> bool:
        """Whether its result is there, and whole."""
        if self.refresh:
            return False
        results = cast("ResultStore", ResultStore().update_for_task(self.planned.task, _sync=True))  # type: ignore[call-arg]
        if not results.exists(self.inputs.key):
            return False
        return not missing_artifact(results.read(self.inputs.key).result, self.site.store())

    def start(self, deployment: str, client: SyncPrefectClient) -> None:
        """Has it begun, unless another build has: then that run is as good as our own."""
        self.attempts += 1
        self.pending_since_s = None
        place = client.read_deployment_by_name(deployment).id
        newest = None if self.refresh else self._newest(place, client)
        self.own = newest is None or newest.state_type not in _GOING_ON
        if newest and not self.own:
            log.info("another build has had this begun; waiting for it", step=self.planned.title, run=str(newest.id))
        self.run = newest.id if newest and not self.own else self._begun(place, newest)

    def _newest(self, deployment: UUID, client: SyncPrefectClient) -> FlowRun | None:
        """The last that anybody had begun, over or not."""
        wanted = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[self.inputs.key]),
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
        )
        found = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
        return found[0] if found else None

    def _begun(self, deployment: UUID, before: FlowRun | None) -> UUID:
        """Builds that look at the same moment see the same run `before`: the server then gives all of them one run."""
        parameters = {
            "step": self.planned.task.name,
            "subject": self.inputs.subject,
            "arguments": dumped(self.planned),
            "channel": self.site.channel,
            "refresh": self.refresh,
            "offline": self.site.offline,
        }
        asked = self._asking() if self.refresh else f"after {before.id if before else 'none'}"
        run = run_deployment(
            deployment,
            parameters=parameters,
            timeout=0,
            tags=[self.inputs.key],
            idempotency_key=f"{deployment} {self.inputs.key} {asked}",
        )
        return cast("FlowRun", run).id

    def _asking(self) -> str:
        """This attempt of this run alone: whoever wants a step anew shares it with nobody."""
        context = FlowRunContext.get()
        asking = context.flow_run if context else None
        return f"{asking.id} {asking.run_count} {self.attempts}" if asking else str(self.attempts)

    def lost(self, found: FlowRun) -> bool:
        """Whether it was handed to a worker that is no more."""
        if found.state_type is not StateType.PENDING:
            self.pending_since_s = None
            return False
        now_s = time.monotonic()
        self.pending_since_s = self.pending_since_s or now_s
        return now_s > self.pending_since_s + _PENDING_S


def _run_all(errands: dict[str, _Errand], deployment: str, client: SyncPrefectClient) -> None:
    """Returns when all are done. When one fails for good, or we are given up, the others are cancelled."""
    waiting = dict(errands)
    try:
        for errand in waiting.values():
            errand.start(deployment, client)
        while waiting:
            time.sleep(_POLL_S)
            require_wanted()
            for key, found in _found(waiting, client).items():
                if _is_over(waiting[key], found, deployment, client):
                    errand = waiting.pop(key)
                    errand.took_s = round(time.monotonic() - errand.begun_s, 1)
    except BaseException:
        for errand in waiting.values():
            if errand.run and errand.own:
                client.set_flow_run_state(errand.run, Cancelling(message="the run that asked for it has ended"))
        raise


def _found(waiting: dict[str, _Errand], client: SyncPrefectClient) -> dict[str, FlowRun]:
    ids = {errand.run: key for key, errand in waiting.items() if errand.run}
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(ids))))
    return {ids[run.id]: run for run in runs}


def _is_over(errand: _Errand, found: FlowRun, deployment: str, client: SyncPrefectClient) -> bool:
    """Raises BuildError with what the run said when it failed, InfrastructureError when machine after machine died."""
    if errand.lost(found):
        client.set_flow_run_state(found.id, Crashed(message="no worker began it"), force=True)
    elif found.state_type is StateType.COMPLETED:
        return True
    elif found.state_type is StateType.FAILED:
        message = found.state.message if found.state else ""
        raise BuildError(f"{found.name} failed: {message}", resolution="mend the cause, and retry this run")
    elif found.state_type not in {StateType.CRASHED, StateType.CANCELLED}:
        return False
    if errand.attempts >= _ATTEMPTS:
        raise InfrastructureError(
            f"{found.name} was lost {errand.attempts} times", resolution="look at the workers of the queue `build`"
        )
    log.warning("a step was lost with its worker; it is given to another", step=found.name, attempt=errand.attempts)
    errand.start(deployment, client)
    return False
