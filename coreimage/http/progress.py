"""The progress of downloads: bars at a terminal, else one line of the story for each finished download."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from coreimage.logs import decimal_size, story, wants_bars

SHOWN_FROM_BYTES = 2048
"""Smaller downloads are not shown: they end before anybody could read it."""
_DIGEST = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}")


class Progress(Protocol):
    """What downloads report to. Its methods may be called from several threads."""

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        """Begin to show a download.

        Args:
            size_bytes: 0 when it is not known.

        Returns:
            A function to call with the number of bytes that have arrived since; negative when the download restarts.
        """
        ...

    def finish(self, name: str) -> None:
        """End what `start` began, whether the download succeeded or not."""
        ...


def show_each_file() -> Progress:
    """Return the progress that shows a bar or a line for each download."""
    return BarProgress() if wants_bars() else LineProgress(story.info)


@contextmanager
def show_total(name: str, size_bytes: int) -> Iterator[Progress]:
    """Show one bar or line for all downloads of the block together.

    Args:
        name: What is being downloaded, such as "312 packages".
        size_bytes: The sum of all sizes.
    """
    progress = show_each_file()
    advance = progress.start(name, size_bytes)
    try:
        yield _TotalProgress(advance)
    finally:
        progress.finish(name)


class NoProgress:
    """A progress that is not shown."""

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        return lambda _: None

    def finish(self, name: str) -> None:
        return


class BarProgress:
    """One bar for each running download; one display draws all of them, so that they never overwrite each other."""

    def __init__(self) -> None:
        from rich import progress  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415

        self._lock = threading.Lock()
        self._tasks: dict[str, list[progress.TaskID | None]] = {}
        self._display = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TaskProgressColumn(),
            progress.TransferSpeedColumn(),
            console=Console(file=sys.stderr),
        )

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        with self._lock:
            if 0 < size_bytes < SHOWN_FROM_BYTES:
                self._tasks.setdefault(name, []).append(None)
                return lambda _: None
            self._display.start()
            task = self._display.add_task(short_name(name), total=size_bytes or None)
            self._tasks.setdefault(name, []).append(task)
        return lambda by_bytes: self._display.advance(task, by_bytes)

    def finish(self, name: str) -> None:
        with self._lock:
            task = self._tasks[name].pop(0)
            if task is not None:
                self._display.stop_task(task)
            if not any(self._tasks.values()):
                self._display.stop()
                # What was drawn stays; the next display must not draw it once more.
                for done in self._display.task_ids:
                    self._display.remove_task(done)


@dataclass
class _Arrival:
    size_bytes: int
    started_s: float
    arrived_bytes: int = 0


class LineProgress:
    """One line for each download that has arrived whole: `  name: 12.3 MB at 4.5 MB/s`."""

    def __init__(self, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._lock = threading.Lock()
        self._running: dict[str, list[_Arrival]] = {}

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        arrival = _Arrival(size_bytes, self._clock())
        with self._lock:
            self._running.setdefault(name, []).append(arrival)

        def advance(by_bytes: int) -> None:
            arrival.arrived_bytes += by_bytes

        return advance

    def finish(self, name: str) -> None:
        with self._lock:
            arrival = self._running[name].pop(0)
        if arrival.arrived_bytes >= max(arrival.size_bytes, SHOWN_FROM_BYTES):
            speed = decimal_size(arrival.arrived_bytes / max(self._clock() - arrival.started_s, 0.001))
            self._tell(f"  {short_name(name)}: {decimal_size(arrival.arrived_bytes)} at {speed}/s")


class _TotalProgress:
    """The sum of what single downloads report."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance_total, self._lock = advance, threading.Lock()

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        return self._advance

    def finish(self, name: str) -> None:
        return

    def _advance(self, by_bytes: int) -> None:
        with self._lock:
            self._advance_total(by_bytes)


def short_name(name: str) -> str:
    """Return `name` with only the beginning of any digest in it, as names of pool files hold a whole one."""
    return _DIGEST.sub(r"\1", name)
