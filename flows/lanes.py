"""Architectures side by side: each in a thread of its own, with its own deadline, its own log and its own children.

Threads of our own rather than a task runner's: when the run is cancelled, or an architecture's time is over, its child
processes are ended at once, and nobody waits for a pool (docs/adr/0006-architectures-in-threads.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Generic, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from coreimage.errors import BuildError
from coreimage.model import LOG, Architecture, ArtifactRef
from coreimage.process import Family
from coreimage.storage import Store, put_blob_bytes

T = TypeVar("T")
log = structlog.get_logger("coreimage.build")

_LANE: ContextVar[str] = ContextVar("lane", default="")
_END_S = 10.0
"""So long a cancelled architecture may take to leave what it is doing; its children are gone by then."""


class Lane:
    """What one architecture of a run has used up and said. `left_s` counts only while it works."""

    def __init__(self, architecture: Architecture, deadline_s: float, *, required: bool) -> None:
        self.architecture, self.required = architecture, required
        self.failure: Exception | None = None
        self._deadline_s, self.left_s = deadline_s, deadline_s
        self._lines = _Lines(architecture)
        self._family = Family()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Lines in the block go to the lane's log; children in it are the lane's, and end when its time is over."""
        start_s, token = time.monotonic(), _LANE.set(self.architecture)
        timer = threading.Timer(self.left_s, self.end, [self._too_late()])
        timer.daemon = True
        timer.start()
        try:
            with self._lines.kept(), self._family.joined():
                yield
        finally:
            _LANE.reset(token)
            timer.cancel()
            self.left_s -= time.monotonic() - start_s

    def end(self, reason: BuildError) -> None:
        self._family.end(reason)

    def store_log(self, store: Store) -> ArtifactRef:
        return put_blob_bytes(store, self._lines.text().encode(), LOG)

    def _too_late(self) -> BuildError:
        return BuildError(
            f"{self.architecture} was not done within {self._deadline_s / 60:g} minutes",
            resolution="find out in its log what took so long, or raise its `deadline_minutes` in the project file",
        )


class _Work(Generic[T]):
    """The work of a lane, and how it ended."""

    def __init__(self, lane: Lane, function: Callable[[], T]) -> None:
        self.lane, self._function = lane, function
        self.result: T | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self.lane.entered():
                self.result = self._function()
        except BaseException as error:
            self.failure = error


def side_by_side(works: Mapping[Lane, Callable[[], T]]) -> dict[Lane, T]:
    """The results of the lanes that succeeded, in the given order; the others know their `failure`.

    Raises the failure of a required lane, having ended the others. One lane alone runs in the caller's own thread.
    """
    running = [_Work(lane, function) for lane, function in works.items()]
    if len(running) == 1:
        running[0].run()
        _settle(running[0])
    else:
        _in_threads(running)
    return {work.lane: work.result for work in running if work.failure is None}  # type: ignore[misc]


def _in_threads(running: Sequence[_Work[T]]) -> None:
    ended = threading.Semaphore(0)
    done: list[_Work[T]] = []

    def run(work: _Work[T]) -> None:
        with bound_contextvars(architecture=work.lane.architecture):
            work.run()
        done.append(work)
        ended.release()

    threads = [
        threading.Thread(target=copy_context().run, args=(run, work), name=work.lane.architecture, daemon=True)
        for work in running
    ]
    try:
        for thread in threads:
            thread.start()
        for number in range(len(running)):
            ended.acquire()
            _settle(done[number])
    except BaseException:
        for work in running:
            work.lane.end(BuildError(f"{work.lane.architecture} was given up with the run"))
        deadline = time.monotonic() + _END_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise


def _settle(work: _Work[T]) -> None:
    failure = work.failure
    if failure is None:
        return
    if work.lane.required or not isinstance(failure, Exception):
        raise failure
    work.lane.failure = failure
    log.warning(f"{work.lane.architecture} failed, and is not required: {failure}")


class _Lines(logging.Handler):
    """Keeps what is logged in the context of one architecture."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self._architecture, self._kept = architecture, list[str]()
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if _LANE.get() == self._architecture:
            self._kept.append(self.format(record))

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._kept)

    @contextmanager
    def kept(self) -> Iterator[None]:
        root = logging.getLogger("coreimage")
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)
