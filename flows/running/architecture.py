"""The build of one architecture, in threads of its own, with its own deadline, log and child processes.

The threads are not an executor's: when the run is cancelled, or an architecture's time is over, its child processes are
ended at once, and nothing waits for a thread pool (docs/adr/0006-architectures-in-threads.md).
"""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import structlog
from prefect.client.schemas.objects import State
from prefect.states import Failed
from structlog.contextvars import bound_contextvars

from coreimage.errors import BuildError
from coreimage.host.children import ChildGroup
from coreimage.model import Architecture
from flows.running.futures import TaskCall

log = structlog.get_logger("coreimage.build")

_CURRENT: ContextVar[ArchitectureBuild | None] = ContextVar("architecture_build", default=None)


class ArchitectureOutcome(NamedTuple):
    """The outcome of one architecture of a run. `failure` is empty when it succeeded; `log` has its log lines."""

    architecture: Architecture
    failure: str
    log: str


class ArchitectureBuild:
    """The tasks that a run submits for one architecture.

    Tasks that are submitted within `scope` are part of it. They run one after the other in its own thread, or aside,
    each in a further thread. The error of the first task that fails is its `failure`: from then on no other task of it
    begins, and its child processes are ended. Its deadline counts only the time in which any task of it runs.
    """

    def __init__(
        self, architecture: Architecture, deadline_s: float, *, required: bool, labelled: bool = False
    ) -> None:
        """Prepare a build; no thread is started yet.

        Args:
            architecture: The architecture.
            deadline_s: How long its tasks may take together.
            required: Whether the whole run fails when this architecture does.
            labelled: Whether its log lines name the architecture, since others are built beside it.
        """
        self.architecture, self.required = architecture, required
        self._labels = {"architecture": architecture} if labelled else {}
        self.failure: BaseException | None = None
        self.calls: list[TaskCall] = []
        self._deadline_s, self.left_s = deadline_s, deadline_s
        self._lock = threading.Lock()
        self._running, self._since_s, self._timer = 0, 0.0, threading.Timer(0, lambda: None)
        self._lines, self._children = _Lines(self), ChildGroup()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    @staticmethod
    def current() -> ArchitectureBuild | None:
        """Return the build whose `scope` we are in, or None."""
        return _CURRENT.get()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Make the tasks that are submitted in the block part of this build, and keep what is logged in its log."""
        token = _CURRENT.set(self)
        try:
            with bound_contextvars(**self._labels):
                yield
        finally:
            _CURRENT.reset(token)

    def add(self, call: TaskCall, run: Callable[[TaskCall], State[Any]], *, aside: bool) -> None:
        """Queue a task, to be run once its inputs exist.

        Args:
            call: The task.
            run: Runs the task to its final state.
            aside: Whether the task runs in a further thread, instead of after the tasks that were added before it.
        """
        self.calls.append(call)

        def work() -> None:
            call.context.run(self._run, call, run)

        if not self._threads:
            self._lines.begin()
            self._start(self._work)
        if aside:
            self._start(work)
        else:
            self._queue.put(work)

    def end(self, reason: BuildError) -> None:
        """Give the build up: end its child processes at once, and begin no other task."""
        self.failure = self.failure or reason
        self._children.end(reason)

    def close(self, until_s: float) -> None:
        """End the threads, waiting for them until the moment `until_s` of the monotonic clock at the latest."""
        self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        self._lines.end()

    def outcome(self) -> ArchitectureOutcome:
        """Return the outcome so far."""
        return ArchitectureOutcome(self.architecture, str(self.failure or ""), self._lines.text())

    def _start(self, function: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=function, name=self.architecture, daemon=True))
        self._threads[-1].start()

    def _work(self) -> None:
        while work := self._queue.get():
            work()

    def _run(self, call: TaskCall, run: Callable[[TaskCall], State[Any]]) -> None:
        try:
            call.wait()
            if self.failure:
                call.ended.set_result(Failed(data=self.failure, message=f"not begun: {self.failure}"))
                return
            with self._clock(), self._children.joined():
                state = run(call)
            error = None if state.is_completed() else state.result(raise_on_failure=False)
            if isinstance(error, Exception):
                self._fail(error)
            call.ended.set_result(state)
        except BaseException as error:
            self._fail(error)
            call.ended.set_result(Failed(data=error, message=str(error)))

    def _fail(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self.end(BuildError(f"{self.architecture} was given up, since a task of it failed: {error}"))

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Count the time of the block, once for blocks that overlap, and end the build when its time is over."""
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._since_s = time.monotonic()
                self._timer = threading.Timer(self.left_s, self.end, [self._too_late()])
                self._timer.daemon = True
                self._timer.start()
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._timer.cancel()
                    self.left_s -= time.monotonic() - self._since_s

    def _too_late(self) -> BuildError:
        return BuildError(
            f"{self.architecture} was not done within {self._deadline_s / 60:g} minutes",
            resolution="find out in its log what took so long, or raise its `deadline_minutes` in the project file",
        )


def succeeded(builds: Sequence[ArchitectureBuild]) -> tuple[ArchitectureBuild, ...]:
    """Wait until all tasks of the builds have ended, and return the builds that did not fail, in the given order.

    Raises:
        The failure of a required build as soon as it is known, or the first when no build is left.
    """
    for _ in concurrent.futures.as_completed([call.ended for build in builds for call in build.calls]):
        for build in builds:
            if build.failure and (build.required or not isinstance(build.failure, Exception)):
                raise build.failure
    failures = [build for build in builds if build.failure]
    for build in failures:
        log.warning(f"{build.architecture} failed, and is not required: {build.failure}")
    if failures and len(failures) == len(builds):
        assert failures[0].failure is not None  # noqa: S101
        raise failures[0].failure
    return tuple(build for build in builds if not build.failure)


class _Lines(logging.Handler):
    """A log handler that keeps the lines of one build."""

    def __init__(self, build: ArchitectureBuild) -> None:
        super().__init__()
        self._build, self._kept = build, list[str]()
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if _CURRENT.get() is self._build:
            self._kept.append(self.format(record))

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._kept)

    def begin(self) -> None:
        logging.getLogger("coreimage").addHandler(self)

    def end(self) -> None:
        logging.getLogger("coreimage").removeHandler(self)
