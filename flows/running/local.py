"""The task runner that runs tasks on this machine: those of an architecture in its own thread, others in the flow's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Self

from prefect import Task
from prefect.client.schemas.objects import RunInput, State
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from coreimage.errors import BuildError
from flows.running.architecture import ArchitectureBuild
from flows.running.futures import TaskCall

_LEAVE_S = 10.0
"""How long the threads of a run that was given up may take to end; their child processes have ended by then."""


class LocalTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """Runs the tasks of the `ArchitectureBuild`s side by side, and every other task while it is submitted.

    A task that belongs to no architecture runs in the flow's own thread, and `submit` raises what the task raised:
    nothing of the run can go on without it. When the flow ends early, by an error, a cancellation or an interrupt,
    the tasks that still run are ended with their child processes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._builds: dict[ArchitectureBuild, None] = {}

    def duplicate(self) -> Self:
        return type(self)()

    def submit(
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> PrefectFuture[Any]:
        call = TaskCall(task, parameters, wait_for, dependencies)
        if build := ArchitectureBuild.current():
            self._builds[build] = None
            build.add(call, self.run, aside=self.aside(task))
        else:
            state = self.run(call)
            call.ended.set_result(state)
            if not state.is_completed():
                state.result()
        return call.future

    def aside(self, task: Task[..., Any]) -> bool:
        """Return whether the task may run beside those of its architecture that were submitted before it."""
        return False

    def run(self, call: TaskCall) -> State[Any]:
        """Run a task whose inputs exist, in this thread."""
        return call.run()

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        for build in self._builds:
            if not all(call.ended.done() for call in build.calls):
                build.end(BuildError(f"{build.architecture} was given up with the run"))
        until_s = time.monotonic() + _LEAVE_S
        for build in self._builds:
            build.close(until_s)
        super().__exit__(exc_type, exc_value, traceback)
