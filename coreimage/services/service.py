"""One program that listens, run as a child process: its start, its readiness, and where its output goes."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coreimage.host.children import Child
from coreimage.host.process import spawn

_POLL_S = 0.1
_TAIL_LINES = 15
_OUTPUT_WITHIN_S = 2.0
"""For the last lines of a child that has ended; something that it left behind may hold the pipe open for longer."""


@dataclass(frozen=True)
class Service:
    """A program that listens. `is_ready` is asked again and again after the start, until it says so."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    is_ready: Callable[[], bool]
    end_within_s: float = 3.0
    """How long it may take to end after SIGTERM, before it is killed."""


@contextmanager
def running(service: Service, log_path: Path) -> Iterator[Child]:
    """Run a service for the block, its output appended to a file, which is complete when the block has ended.

    The child never outlives this process.
    """
    with spawn(service.argv, env=service.environment) as child:
        copying = threading.Thread(target=_copy_output, args=(child, log_path), name=service.name, daemon=True)
        copying.start()
        try:
            yield child
        finally:
            child.end(grace_s=service.end_within_s)
            copying.join(_OUTPUT_WITHIN_S)


def becomes_ready(
    service: Service, child: Child, *, within_s: float, is_cancelled: Callable[[], bool] = lambda: False
) -> bool:
    """Wait until a service is ready; return False when it ends, takes too long, or the wait is cancelled."""
    deadline_s = time.monotonic() + within_s
    while child.running() and time.monotonic() < deadline_s and not is_cancelled():
        if service.is_ready():
            return True
        time.sleep(_POLL_S)
    return False


def log_tail(log_path: Path) -> str:
    """Return the last lines of a service's log, each marked as a quotation, for an error message."""
    try:
        lines = log_path.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "".join(f"\n  | {line}" for line in lines[-_TAIL_LINES:])


def answers(url: str) -> bool:
    """Return whether a GET of an HTTP URL succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return True
    except OSError:
        return False


def _copy_output(child: Child, log_path: Path) -> None:
    with log_path.open("a", encoding="utf-8") as log:
        try:
            for line in child.lines():
                log.write(f"{line}\n")
                log.flush()
        except ValueError:
            return  # The pipe was closed while we read: the block has ended.
