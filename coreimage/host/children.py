"""Running children: one process of ours, and groups of children that end together. `process` starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from coreimage.errors import CoreimageError, InfrastructureError


class Child:
    """A process that was started, in a process group of its own."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self._popen.pid

    def lines(self) -> Iterator[str]:
        """Yield the output line by line, without line ends, until the child closes it."""
        source = self._popen.stdout or self._popen.stderr
        for line in source or ():
            yield line.decode(errors="replace").rstrip("\r\n")

    def wait(self, timeout_s: float | None = None) -> int:
        """Return the exit status; for a child that a signal ended, its negative number."""
        return self._popen.wait(timeout_s)

    def running(self) -> bool:
        """Return whether the child has not ended."""
        return self._popen.poll() is None

    def end(self, grace_s: float = 3.0) -> None:
        """Send SIGTERM to the process group, then SIGKILL to what still runs after `grace_s`."""
        if self.running():
            self._signal(signal.SIGTERM)
            try:
                self._popen.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._popen.wait()
        # Descendants of a child that has ended may live on, and hold its output open.
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except (ProcessLookupError, PermissionError):
            return


class ChildGroup:
    """Children that are ended together, whichever threads start them. A group made within another is part of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._reason: CoreimageError | None = None
        self._outer = _GROUP.get()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Make children that are started in the block, or in contexts copied from it, part of this group."""
        token = _GROUP.set(self)
        try:
            yield
        finally:
            _GROUP.reset(token)

    def end(self, reason: CoreimageError) -> None:
        """Kill all children. From now on `reason` is raised wherever one of the group is run or started."""
        with self._lock:
            self._reason = self._reason or reason
            children = list(self._children)
        for child in children:
            child.end(grace_s=0)

    def check(self) -> None:
        """Raise the reason for which this group, or one around it, was ended."""
        if self._reason:
            raise self._reason
        if self._outer:
            self._outer.check()

    def add(self, child: Child) -> None:
        """Make a child part of this group and those around it; where one was ended already, the child is ended."""
        with self._lock:
            self._children.add(child)
        if self._reason:
            child.end(grace_s=0)
        if self._outer:
            self._outer.add(child)

    def remove(self, child: Child) -> None:
        """Forget a child that has ended."""
        with self._lock:
            self._children.discard(child)
        if self._outer:
            self._outer.remove(child)


_GROUP: ContextVar[ChildGroup | None] = ContextVar("child_group", default=None)


def current_group() -> ChildGroup:
    """Return the group that children of this context are part of; a new one where there is none."""
    return _GROUP.get() or ChildGroup()


def check_cancelled() -> None:
    """Raise the reason for which the group of this context was ended, in loops that wait for something else."""
    current_group().check()


@contextmanager
def interruptible() -> Iterator[None]:
    """Kill the children of all threads of the block when an interrupt ends it, so that nobody waits for them.

    A thread takes part when it runs in a context that was copied within the block.
    """
    group = ChildGroup()
    with group.joined():
        try:
            yield
        except Exception:
            raise
        except BaseException:
            group.end(InfrastructureError("interrupted"))
            raise
