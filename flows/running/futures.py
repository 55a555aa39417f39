"""A submitted task as our task runners keep it, and the future of a task that is not run."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from prefect import Task
from prefect.client.schemas.objects import RunInput, State
from prefect.futures import PrefectConcurrentFuture, PrefectFuture, PrefectTaskRunFuture
from prefect.states import Pending
from prefect.task_engine import run_task_sync
from prefect.utilities.collections import visit_collection


@dataclass(frozen=True)
class TaskCall:
    """A submitted task, with everything that Prefect hands to a task runner, and the context that it runs in."""

    task: Task[..., Any]
    parameters: dict[str, Any]
    wait_for: Iterable[PrefectFuture[Any]] | None
    dependencies: dict[str, set[RunInput]] | None
    run_id: UUID = field(default_factory=uuid4)
    context: Context = field(default_factory=copy_context)
    ended: concurrent.futures.Future[State[Any]] = field(default_factory=concurrent.futures.Future)

    @property
    def future(self) -> PrefectConcurrentFuture[Any]:
        """The future that `submit` returns."""
        return PrefectConcurrentFuture(self.run_id, self.ended)

    def wait(self) -> bool:
        """Wait until every task that this one depends on has ended; return whether all of them succeeded."""
        inputs = futures_in([self.parameters, list(self.wait_for or ())])
        for future in inputs:
            future.wait()
        return all(future.state.is_completed() for future in inputs)

    def run(self) -> State[Any]:
        """Run the task in this thread by Prefect's engine, and return its final state."""
        return run_task_sync(  # type: ignore[return-value]
            task=self.task,
            task_run_id=self.run_id,
            parameters=self.parameters,
            wait_for=self.wait_for,
            return_type="state",
            dependencies=self.dependencies,
        )


class NotRun(PrefectTaskRunFuture[Any]):
    """The future of a task that its task runner does not run. Its result is `None`.

    A task that has such a future among its arguments cannot run either.
    """

    def __init__(self, task: Task[..., Any]) -> None:
        super().__init__(uuid4())
        self.task_name = task.name
        self._final_state: State[Any] | None = Pending(message="not run")

    def wait(self, timeout: float | None = None) -> None:
        """Return at once: there is nothing to wait for."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        return None

    def add_done_callback(self, fn: Callable[[PrefectFuture[Any]], None]) -> None:
        fn(self)


def futures_in(value: object) -> list[PrefectFuture[Any]]:
    """Return all futures in nested collections, in order."""
    futures: list[PrefectFuture[Any]] = []

    def visit(item: object) -> object:
        if isinstance(item, PrefectFuture):
            futures.append(item)
        return item

    visit_collection(value, visit_fn=visit, return_data=False)
    return futures
