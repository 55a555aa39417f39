"""Shows downloads: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, TaskID, TaskProgressColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

SHOWN_FROM_BYTES = 2048
"""Smaller downloads show no progress: they are over before anybody could read it."""


class Progress(Protocol):
    """Told of each download: `start` once its size is known (0 when not), `advance` per chunk, `finish` at its end.

    What `start` returns takes the number of new bytes; negative when a download starts again. All of it may be
    called from several threads.
    """

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]: ...

    def finish(self, name: str) -> None: ...


class NoProgress:
    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        return lambda _: None

    def finish(self, name: str) -> None:
        """Says nothing."""


def progress_for(stream: TextIO) -> Progress:
    """Bars when `stream` is a terminal, else one plain line per finished download."""
    return BarProgress(Console(file=stream)) if stream.isatty() else LineProgress(stream)


class BarProgress:
    """One bar per running download; all are drawn by one display, so that they never overwrite each other."""

    def __init__(self, console: Console) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, list[TaskID | None]] = {}
        self._display = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TaskProgressColumn(),
            TransferSpeedColumn(),
            console=console,
        )

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        with self._lock:
            if 0 < size_bytes < SHOWN_FROM_BYTES:
                self._tasks.setdefault(name, []).append(None)
                return lambda _: None
            self._display.start()
            task = self._display.add_task(name, total=size_bytes or None)
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
class _Line:
    size_bytes: int
    started_s: float
    arrived_bytes: int = 0


class LineProgress:
    """`name: 12.3 MB, 4.5 MB/s` for each download that ended whole."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.Lock()
        self._lines: dict[str, list[_Line]] = {}

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        line = _Line(size_bytes, self._clock())
        with self._lock:
            self._lines.setdefault(name, []).append(line)

        def advance(by_bytes: int) -> None:
            line.arrived_bytes += by_bytes

        return advance

    def finish(self, name: str) -> None:
        with self._lock:
            line = self._lines[name].pop(0)
            if line.arrived_bytes >= max(line.size_bytes, SHOWN_FROM_BYTES):
                speed = line.arrived_bytes / max(self._clock() - line.started_s, 0.001)
                print(f"{name}: {decimal(line.arrived_bytes)}, {decimal(int(speed))}/s", file=self._stream, flush=True)
