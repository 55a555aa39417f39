"""How downloads are shown: bars for whoever waits at a terminal, else a line of the story when they are done."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coreimage.http import SHOWN_FROM_BYTES, BarProgress, Progress
from coreimage.logs import decimal_size, story, wants_bars

_DIGEST = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}")


def each_file() -> Progress:
    """One bar or line per download."""
    return _ShortNames(_terminal_bars() if wants_bars() else _Lines(story.info))


@contextmanager
def all_files(what: str, size_bytes: int) -> Iterator[Progress]:
    """One bar or line for the whole block, which downloads `size_bytes` in many files: `what` says so."""
    if not wants_bars():
        lines = _Lines(story.info)
        yield from _together(lines, what, size_bytes)
    else:
        yield from _together(_terminal_bars(), what, size_bytes)


def _together(shown: Progress, what: str, size_bytes: int) -> Iterator[Progress]:
    advance = shown.start(what, size_bytes)
    try:
        yield _Sum(advance)
    finally:
        shown.finish(what)


def _terminal_bars() -> Progress:
    from rich.console import Console  # noqa: PLC0415

    return BarProgress(Console(file=sys.stderr))


class _Sum:
    """Adds up what the single downloads report."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._lock = advance, threading.Lock()

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        return self._moved

    def finish(self, name: str) -> None:
        """The sum shows no single files."""

    def _moved(self, by_bytes: int) -> None:
        with self._lock:
            self._advance(by_bytes)


class _Lines:
    """`  name: 12.3 MB at 4.5 MB/s`, once it is there."""

    def __init__(self, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._running: dict[str, tuple[float, list[int]]] = {}

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        arrived = [0]
        self._running[name] = self._clock(), arrived

        def advance(by_bytes: int) -> None:
            arrived[0] += by_bytes

        return advance

    def finish(self, name: str) -> None:
        started_s, arrived = self._running.pop(name)
        speed = decimal_size(arrived[0] / max(self._clock() - started_s, 0.001))
        if arrived[0] >= SHOWN_FROM_BYTES:
            self._tell(f"  {name}: {decimal_size(arrived[0])} at {speed}/s")


class _ShortNames:
    """Names of pool files hold a whole digest: its beginning is enough for a person."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        return self._shown.start(short_name(name), size_bytes)

    def finish(self, name: str) -> None:
        self._shown.finish(short_name(name))


def short_name(name: str) -> str:
    return _DIGEST.sub(r"\1", name)
