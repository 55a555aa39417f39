"""The progress of a flow run: lines in its log, a bar in Prefect's UI, and the list of its finished tasks.

The lines go to the logger `coreimage.story`: into the run's log like all others, and to the terminal of a command.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext

from coreimage.logs import story
from coreimage.model import Value
from tasks import story as lines

R = TypeVar("R")

_PROGRESS: ContextVar[Progress | None] = ContextVar("progress", default=None)
_REMOTE_S: ContextVar[float | None] = ContextVar("remote_s", default=None)


class FinishedTask(Value):
    """A task of a run that has ended. `cached` says that its result was remembered; `title` is for people."""

    name: str
    title: str = ""
    cached: bool
    duration_s: float = 0.0


class Progress:
    """The progress of one flow run. The bar appears once a task really runs: a run without work needs none."""

    def __init__(self, expected: int) -> None:
        """Begin to count tasks and time.

        Args:
            expected: How many tasks with a title the run will have; 0 shows no bar.
        """
        self._expected = expected
        self._lock = threading.Lock()
        self._ended: dict[UUID, FinishedTask] = {}
        self._kept: set[UUID] = set()
        self._artifact: UUID | None = None
        self._full = False
        self._begun_s = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Make this the progress of the tasks that are submitted in the block."""
        token = _PROGRESS.set(self)
        try:
            yield self
            if not self._full:
                self.finish("Done")
        finally:
            _PROGRESS.reset(token)

    @property
    def finished(self) -> tuple[FinishedTask, ...]:
        """The artifact tasks that have ended, in the order in which they ended."""
        return tuple(task for run, task in self._ended.items() if run in self._kept)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun_s

    def show(self, title: str) -> None:
        """Show the title of the present task at the bar."""
        if not self._expected or FlowRunContext.get() is None:
            return
        with self._lock:
            percent = min(100 * len(self._ended) / self._expected, 99.0)
            if self._artifact is None:
                self._artifact = cast("UUID", create_progress_artifact(percent, description=title))
            else:
                update_progress_artifact(self._artifact, percent, description=title)

    def note(self, run: TaskRun, task: FinishedTask, *, kept: bool) -> None:
        """Note that a task run has ended; a further attempt of the same run replaces the one before.

        Args:
            run: The task run.
            task: Its entry in `finished`.
            kept: Whether it is of an artifact task, and so belongs to `finished`.
        """
        with self._lock:
            self._ended[run.id] = task
            if kept:
                self._kept.add(run.id)

    def finish(self, description: str) -> None:
        """Fill the bar, if there is one."""
        self._full = True
        if self._artifact:
            update_progress_artifact(self._artifact, 100.0, description=description)


def current_progress() -> Progress:
    """Return the progress of the run that we are in; outside of any, one that shows nothing."""
    return _PROGRESS.get() or Progress(0)


@contextmanager
def made_by_another_worker(duration_s: float) -> Iterator[None]:
    """Report a result that is remembered in the block as just made for this run by another worker.

    Args:
        duration_s: How long the other worker took.
    """
    token = _REMOTE_S.set(duration_s)
    try:
        yield
    finally:
        _REMOTE_S.reset(token)


def tell(run: TaskRun, name: str, function: Callable[[], R], *, kept: bool) -> R:
    """Call the function of a task run, and tell its beginning and its outcome.

    Args:
        run: The task run, whose name is the title for people.
        name: The name of the task.
        function: The function.
        kept: See `Progress.note`.

    Returns:
        The result of the function.
    """
    progress, start_s = current_progress(), time.monotonic()
    story.info(lines.beginning(run.name))
    progress.show(run.name)
    try:
        result = function()
        story.info(lines.ending(result, time.monotonic() - start_s))
    finally:
        duration_s = round(time.monotonic() - start_s, 1)
        progress.note(run, FinishedTask(name=name, title=run.name, cached=False, duration_s=duration_s), kept=kept)
    return result


def tell_remembered(run: TaskRun, name: str, result: object) -> None:
    """Tell the outcome of a task that need not run, since its result is remembered."""
    remote_s = _REMOTE_S.get()
    line = lines.remembered(run.name, result) if remote_s is None else lines.made_remotely(run.name, result, remote_s)
    story.info(line)
    ended = FinishedTask(name=name, title=run.name, cached=remote_s is None, duration_s=round(remote_s or 0.0, 1))
    current_progress().note(run, ended, kept=True)
