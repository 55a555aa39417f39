"""Which steps a build would take anew, and why, without taking any.

The archives are looked at and the packages planned, since that tells what the rest depends on; nothing is built,
published or released, and the lock that the next build starts from stays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.results import ResultStore

from coreimage.model import ArtifactRef, Value
from coreimage.storage import Store
from flows.build import Build, architectures
from flows.result import Step
from flows.steps import Planned
from tasks import publication
from tasks.caching import ArtifactPolicy, missing_artifact
from tasks.inputs import Inputs, why
from tasks.rootfs import plan_packages, plan_tools, probe_archives
from tasks.site import Site

P = ParamSpec("P")
R = TypeVar("R")

_LATER = (
    *("plan-packages", "build-rootfs", "build-device", "publish-build", "import-build", "assemble-image"),
    *("boot-test", "release-candidate", "mark-good", "write-pages"),
)
_PLANS = (plan_tools.name, plan_packages.name)
_ALWAYS: tuple[Task[Any, Any], ...] = (probe_archives,)


class Stage(Value):
    """One step: why it would run, or no reasons when its result is remembered."""

    name: str
    subject: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        name = f"{self.name} ({self.subject})" if self.subject else self.name
        return f"{name} runs: {', '.join(self.reasons)}" if self.reasons else f"{name}: remembered"


class WouldRun(Exception):  # noqa: N818
    """Ends the look at a chain of steps: what follows depends on a result that is not there."""


def explain(channel: str, project_file: str, site: Site, devices: tuple[str, ...] = ()) -> tuple[Stage, ...]:
    """The steps of a build of `channel`, in order. Raises what loading the project and planning raise."""
    return Foreseen(channel, project_file, site, devices).stages()


class Foreseen(Build):
    """A build that looks its steps up instead of taking them."""

    def __init__(self, channel: str, project_file: str, site: Site, devices: tuple[str, ...]) -> None:
        super().__init__(channel, project_file, site, devices, refresh=False)
        self.steps = self.lookup = Lookup(site)

    def stages(self) -> tuple[Stage, ...]:
        parts: list[Callable[[], Any]] = [
            *(partial(self.part, self.rootfs, each) for each in architectures(self.project, self.devices)),
            *(partial(self.part, self.device_part, device) for device in self.devices),
        ]
        known = [_known(part) for part in parts] if _known(lambda: self.tools) else [False]
        if all(known):
            _known(self.follow)
        seen = {stage.name for stage in self.lookup.found}
        waiting = ("what it is made of is built first",)
        later = [Stage(name=name, subject="", reasons=waiting) for name in _LATER if name not in seen]
        return (*dict.fromkeys(self.lookup.found), *later)

    def part(self, plan: Callable[[Any], Planned[Any]], what: str) -> None:
        self.steps.do(plan(what))

    def follow(self) -> None:
        names = architectures(self.project, self.devices)
        content = self.content([self.parts(name) for name in names])
        published = self.steps.take("", publication.publish_build, content, site=self.site)
        self.write_pages(published, [device for name in names for device in self.finish(name, published)])

    def name_lock(self, pointer: str, lock: ArtifactRef) -> None:
        """The next build's business."""

    def offer(self, gadget: ArtifactRef) -> None:
        """The next build's business, too."""


class Lookup:
    """Takes only what tells of the archives; everything else is looked up among the remembered results."""

    taken: tuple[Step, ...] = ()

    def __init__(self, site: Site) -> None:
        self.found: list[Stage] = []
        self._store = site.store()

    def take(self, title: str, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if task in _ALWAYS:
            return task.fn(*args, **kwargs)
        found = look_up(task, args, kwargs, store=self._store)
        self.found.append(Stage(name=task.name, subject=found.subject, reasons=found.reasons))
        if found.reasons and task.name in _PLANS:
            return task.fn(*args, **kwargs)
        if found.reasons:
            raise WouldRun
        return cast("R", found.result)

    def do(self, planned: Planned[R]) -> R:
        return self.take(planned.title, planned.task, *planned.arguments, **planned.keywords)

    def ahead(self, *planned: Planned[Any]) -> None:
        """Nothing is done."""

    def finish(self, news: str) -> None:
        """Nothing was done."""


@dataclass(frozen=True)
class Found:
    """What is remembered of a step: its result, or the reasons why it would run."""

    subject: str
    reasons: tuple[str, ...]
    result: Any = None


def look_up(task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, store: Store) -> Found:
    """Looks a step up among the remembered results, without taking it."""
    inputs = inputs_of(task, args, kwargs)
    if task.refresh_cache:
        return Found(inputs.subject, ("an older build comes back as a new version",))
    results = cast("ResultStore", ResultStore().update_for_task(task, _sync=True))  # type: ignore[call-arg]
    if not results.exists(inputs.key):
        return Found(inputs.subject, why(inputs, store=store))
    result = results.read(inputs.key).result
    gone = missing_artifact(result, store)
    return Found(inputs.subject, why(inputs, gone, store=store) if gone else (), result)


def inputs_of(task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inputs:
    """What the result of a step that is remembered depends on."""
    policy = task.cache_policy
    assert isinstance(policy, ArtifactPolicy)  # noqa: S101
    return policy.inputs(task.name, inspect.signature(task.fn).bind(*args, **kwargs).arguments)


def _known(part: Callable[[], Any]) -> bool:
    try:
        part()
    except WouldRun:
        return False
    return True
