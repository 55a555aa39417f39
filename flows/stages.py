"""A part of a build, by hand: up to a stage, or from one on. It leaves what was made where one can look at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar

import structlog
from prefect import Task, flow

from coreimage import logs
from coreimage.errors import BuildError
from coreimage.model import ArtifactRef, PublishedBuild, Value
from coreimage.stages import Stage, Stages
from flows.build import Build
from flows.explain import inputs_of, look_up
from flows.result import Step
from flows.steps import Planned, Steps
from flows.story import outcome
from tasks import system_image
from tasks.caching import ArtifactPolicy
from tasks.site import Site

P = ParamSpec("P")
R = TypeVar("R")
log = structlog.get_logger("coreimage.build")

_STAGE_OF: dict[str, Stage] = {
    "probe-archives": "plan",
    "plan-tools": "plan",
    "build-tools": "plan",
    "plan-packages": "plan",
    "build-rootfs": "rootfs",
    "build-device": "device",
    "publish-build": "publish",
    "publish-keyrings": "import",
    "import-build": "import",
    "publish-gadget": "image",
    "offer-tools": "image",
    "assemble-image": "image",
    "boot-test": "boot",
    "release-candidate": "release",
    "mark-good": "release",
    "write-pages": "release",
}
"""By the name of its task."""


class Made(Value):
    """What one step gave, and of what: in words, and its artifacts by what they are."""

    stage: Stage
    step: str
    subject: str
    said: str
    artifacts: dict[str, ArtifactRef]


class StagesResult(Value):
    """`made` has what the steps up to the last stage gave, remembered or new, in the order they were taken."""

    channel: str
    made: tuple[Made, ...]
    steps: tuple[Step, ...]


@flow(name="build-stages", flow_run_name="{channel}", persist_result=True, result_serializer="json")
def build_stages(
    channel: str,
    stages: Stages,
    project_file: str = "",
    store_url: str = "",
    keys_folder: str = "",
    devices: tuple[str, ...] = (),
    offline: bool = False,
) -> StagesResult:
    """Takes only some stages of a build; the other arguments are those of `build_channel`.

    Raises BuildError when a stage before the first was not done yet, as things stand.
    """
    logs.configure()
    site = Site.here(store_url=store_url, keys_folder=keys_folder, channel=channel, offline=offline)
    return StagedBuild(channel, project_file, site, devices, stages).taken()


class Enough(Exception):  # noqa: N818
    """The next step belongs to a stage that nobody wants now."""


class StagedBuild(Build):
    """A build that stops after a stage, or goes on from one. One architecture after the other."""

    def __init__(self, channel: str, project_file: str, site: Site, devices: tuple[str, ...], stages: Stages) -> None:
        super().__init__(channel, project_file, site, devices, refresh=False)
        self.stages = stages
        self.steps = self.staged = StagedSteps(stages, site, channel, self.expected_steps())

    @property
    def locks_stand(self) -> bool:
        """Whoever goes on from a later stage wants the packages that were chosen, not newer ones."""
        return super().locks_stand or self.stages.before_first("plan")

    def taken(self) -> StagesResult:
        _reached(self.prepare)
        parts = [_reached(partial(self.parts, name)) for name in self.architectures]
        built = [part for part in parts if part]
        if len(built) == len(parts) and (published := _reached(partial(self.published, (), tuple(built)))):
            _reached(partial(self.imported, published))
        self.steps.finish(f"{self.channel}: done up to {self.stages.last}")
        return StagesResult(channel=self.channel, made=tuple(self.staged.made), steps=self.steps.taken)

    def imported(self, published: PublishedBuild) -> None:
        self.steps.take("", system_image.publish_keyrings, site=self.site)
        finished = [_reached(partial(self.finish, name, published)) for name in self.architectures]
        if all(finished):
            self.write_pages(published, [device for devices in finished if devices for device in devices])
            self.note_released(self.architectures)


class StagedSteps(Steps):
    """Takes steps of the wanted stages, and remembered ones of those before."""

    def __init__(self, stages: Stages, site: Site, channel: str, expected: int) -> None:
        super().__init__(refresh=False, expected=expected)
        self.made: list[Made] = []
        self._stages, self._site, self._channel = stages, site, channel
        self._done: list[tuple[Planned[Any], Any]] = []

    def take(self, title: str, task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        stage = _STAGE_OF[task.name]
        if self._stages.after_last(stage):
            raise Enough
        if self._stages.before_first(stage) and isinstance(task.cache_policy, ArtifactPolicy):
            self._require_remembered(stage, task, args, kwargs)
        result = super().take(title, task, *args, **kwargs)
        artifacts = artifacts_of(result)
        if artifacts or outcome(result):
            subject = inputs_of(task, args, kwargs).subject if isinstance(task.cache_policy, ArtifactPolicy) else ""
            made = Made(stage=stage, step=task.name, subject=subject, said=outcome(result), artifacts=artifacts)
            self.made.append(made)
        return result

    def do(self, planned: Planned[R]) -> R:
        for step, result in self._done:
            if step == planned:
                return result  # type: ignore[no-any-return]
        return super().do(planned)

    def ahead(self, *planned: Planned[Any]) -> None:
        """All that are wanted, before the first that belongs to a later stage ends the work."""
        for each in planned:
            if not self._stages.after_last(_STAGE_OF[each.task.name]):
                self._done.append((each, self.do(each)))

    def _anew(self, task: Task[..., Any]) -> bool:
        return self._stages.anew(_STAGE_OF[task.name])

    def _require_remembered(self, stage: Stage, task: Task[..., Any], args: Sequence[Any], kwargs: Any) -> None:
        found = look_up(task, args, kwargs, store=self._site.store())
        if found.reasons:
            raise BuildError(
                f"the stage {stage} was not done yet as things stand: {', '.join(found.reasons)}",
                where=found.subject or task.name,
                resolution=f"`coreimage build {self._channel} --until {stage}`, or --from {stage}",
            )


def artifacts_of(result: object) -> dict[str, ArtifactRef]:
    """By the name of the field; of several results of one step, each with its number."""
    if isinstance(result, tuple):
        parts = [artifacts_of(each) for each in result]
        return {f"{name} {n}": ref for n, part in enumerate(parts, start=1) for name, ref in part.items()}
    if isinstance(result, ArtifactRef):
        return {"lock": result}
    if not isinstance(result, Value):
        return {}
    fields = [(name, getattr(result, name)) for name in type(result).model_fields]
    named = {file.name: file.artifact for name, files in fields if name == "files" for file in files}
    return {name: value for name, value in fields if isinstance(value, ArtifactRef)} | named


def _reached(function: Callable[[], R]) -> R | None:
    try:
        return function()
    except Enough:
        return None
