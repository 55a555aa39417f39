"""The task runner that runs only some stages of a build, and keeps what each task returned and where its output is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from prefect import Task
from prefect.client.schemas.objects import RunInput, State
from prefect.futures import PrefectFuture, resolve_futures_to_results
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from coreimage.errors import BuildError
from coreimage.model import ArtifactRef, Value
from coreimage.operations.stages import Stage, Stages
from flows.running.futures import NotRun, TaskCall
from flows.running.local import LocalTaskRunner
from tasks.cache.policy import SITE, ArtifactPolicy, look_up
from tasks.cache.reasons import subject_of
from tasks.factory import BuildTask
from tasks.progress import FinishedTask, current_progress
from tasks.story import outcome

STAGE_OF: dict[str, Stage] = {
    "announce-build": "plan",
    "probe-archives": "plan",
    "plan-tools": "plan",
    "current-lock": "plan",
    "record-lock": "plan",
    "build-tools": "plan",
    "plan-packages": "plan",
    "build-rootfs": "rootfs",
    "build-device": "device",
    "build-custom": "publish",
    "publish-build": "publish",
    "name-run": "publish",
    "publish-keyrings": "import",
    "gather-components": "import",
    "import-build": "import",
    "offer-tools": "image",
    "pack-gadget": "image",
    "publish-gadget": "image",
    "assemble-image": "image",
    "boot-test": "boot",
    "release-candidate": "release",
    "mark-good": "release",
    "write-pages": "release",
    "report-build": "release",
    "record-release": "release",
}
"""The stage of every task that a build submits, by the task's name."""


class Output(Value):
    """The output of one task, remembered or new: `outcome` in words, and the artifacts by the names of their fields."""

    stage: Stage
    task: str
    subject: str
    outcome: str
    artifacts: dict[str, ArtifactRef]


class StageTaskRunner(LocalTaskRunner):
    """Runs the tasks of the wanted stages, with the remembered results of the stages before them.

    A task of a later stage is not run. A task of an earlier stage whose result is not remembered raises BuildError.
    Prefect duplicates the runner for each run; the duplicates share the list of submitted calls.
    """

    def __init__(self, stages: Stages, channel: str, submitted: list[TaskCall] | None = None) -> None:
        """Prepare a runner; no task is run yet.

        Args:
            stages: The wanted stages.
            channel: The channel that is built, for the advice in errors.
            submitted: The list that collects the calls of the tasks that run.
        """
        super().__init__()
        self._stages, self._channel = stages, channel
        self._submitted: list[TaskCall] = [] if submitted is None else submitted

    def duplicate(self) -> Self:
        return type(self)(self._stages, self._channel, self._submitted)

    def submit(
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> PrefectFuture[Any]:
        if self._stages.after_last(STAGE_OF[task.name]):
            return NotRun(task)
        return super().submit(task, parameters, wait_for, dependencies)

    def run(self, call: TaskCall) -> State[Any]:
        stage = STAGE_OF[call.task.name]
        self._submitted.append(call)
        if self._stages.before_first(stage) and isinstance(call.task.cache_policy, ArtifactPolicy):
            self._require_remembered(call, stage)
        with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: self._stages.anew(stage)}):
            return super().run(call)

    def outputs(self) -> tuple[Output, ...]:
        """Return the outputs of the tasks, in the order in which the tasks began."""
        ended = [call for call in self._submitted if call.ended.result().is_completed()]
        outputs = [_output(call) for call in ended if not (isinstance(call.task, BuildTask) and call.task.quiet)]
        return tuple(output for output in outputs if output.outcome or output.artifacts)

    def finished(self) -> tuple[FinishedTask, ...]:
        """Return the tasks of the run that have ended."""
        return self._submitted[0].context.run(current_progress).finished if self._submitted else ()

    def _require_remembered(self, call: TaskCall, stage: Stage) -> None:
        lookup = look_up(call.task, resolve_futures_to_results(call.parameters))
        if not lookup.remembered:
            raise BuildError(
                f"no result of the stage {stage} is remembered for the present inputs: {', '.join(lookup.reasons)}",
                where=lookup.inputs.subject or call.task.name,
                resolution=f"`coreimage build {self._channel} --until {stage}`, or --from {stage}",
            )


def _output(call: TaskCall) -> Output:
    result = call.ended.result().result()
    arguments = resolve_futures_to_results(call.parameters)
    cached = isinstance(call.task.cache_policy, ArtifactPolicy)
    return Output(
        stage=STAGE_OF[call.task.name],
        task=call.task.name,
        subject=subject_of(arguments[SITE].channel, arguments) if cached else "",
        outcome=outcome(result),
        artifacts=artifacts_of(result),
    )


def artifacts_of(result: object) -> dict[str, ArtifactRef]:
    """Return the artifacts of a result by the names of its fields, numbered where there are several results."""
    if isinstance(result, tuple):
        parts = [artifacts_of(each) for each in result]
        return {f"{name} {n}": ref for n, part in enumerate(parts, start=1) for name, ref in part.items()}
    if isinstance(result, ArtifactRef):
        return {"lock": result}
    if not isinstance(result, Value):
        return {}
    fields = {name: getattr(result, name) for name in type(result).model_fields}
    artifacts = {name: value for name, value in fields.items() if isinstance(value, ArtifactRef)}
    for file in fields.get("files", ()):
        if isinstance(file, ArtifactRef):
            artifacts[file.uri.rpartition("/")[2]] = file
        else:
            artifacts[file.name] = file.artifact
    return artifacts
