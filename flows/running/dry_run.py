"""The task runner of a dry run: it looks up the result of every task, and collects why a task would run.

The archives are looked at and the packages planned, since everything else depends on them. Nothing is built, published
or released, and the lock that the next build starts from stays. No Prefect server is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from uuid import uuid4

from prefect import Task
from prefect.client.schemas.objects import RunInput, State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, PrefectTaskRunFuture, resolve_futures_to_results
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.states import Completed
from prefect.task_runners import TaskRunner

from coreimage.model import Value
from flows.running.futures import NotRun, futures_in
from tasks.cache.policy import SITE, ArtifactPolicy, look_up
from tasks.cache.reasons import subject_of
from tasks.factory import BuildTask


class Action(Value):
    """What a build would do about one task: run it for these reasons or, without any, use its remembered result."""

    task: str
    subject: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        name = f"{self.task} ({self.subject})" if self.subject else self.task
        return f"{name} runs: {', '.join(self.reasons)}" if self.reasons else f"{name}: remembered"


class DryRunTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """Collects an `Action` for every task whose result can be remembered. Every task ends while it is submitted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.actions: list[Action] = []

    def duplicate(self) -> Self:
        return type(self)()

    def submit(
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> PrefectFuture[Any]:
        waits_for = [future for future in futures_in(parameters) if isinstance(future, NotRun)]
        runs = isinstance(task, BuildTask) and task.dry_run and not waits_for
        if not isinstance(task.cache_policy, ArtifactPolicy):
            return _Remembered(task.fn(**resolve_futures_to_results(parameters))) if runs else NotRun(task)
        if waits_for:
            reasons = tuple(f"waits for {name}" for name in dict.fromkeys(each.task_name for each in waits_for))
            self.actions.append(Action(task=task.name, subject=_subject(parameters), reasons=reasons))
            return NotRun(task)
        arguments = resolve_futures_to_results(parameters)
        lookup = look_up(task, arguments)
        self.actions.append(Action(task=task.name, subject=lookup.inputs.subject, reasons=lookup.reasons))
        if lookup.remembered:
            return _Remembered(lookup.result)
        return _Remembered(task.fn(**arguments)) if runs else NotRun(task)

    @contextmanager
    def in_charge(self) -> Iterator[Self]:
        """Make this the task runner of all tasks that are submitted in the block, without a flow run."""
        # Of a flow run's context, `Task.submit` uses the task runner alone.
        context: Any = FlowRunContext
        nowhere = temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False})
        with self, nowhere, context.model_construct(task_runner=self):
            yield self


class _Remembered(PrefectTaskRunFuture[Any]):
    """The future of a task whose result is known already."""

    def __init__(self, result: object) -> None:
        super().__init__(uuid4())
        self._final_state: State[Any] | None = Completed(data=result)

    def wait(self, timeout: float | None = None) -> None:
        """Return at once: there is nothing to wait for."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        assert self._final_state is not None  # noqa: S101
        return self._final_state.data

    def add_done_callback(self, fn: Callable[[PrefectFuture[Any]], None]) -> None:
        fn(self)


def _subject(parameters: Mapping[str, Any]) -> str:
    """Describe what a task is about by those of its inputs that are known."""
    known = {
        name: value.result() if isinstance(value, PrefectFuture) else value
        for name, value in parameters.items()
        if not isinstance(value, NotRun)
    }
    return subject_of(known[SITE].channel, known)
