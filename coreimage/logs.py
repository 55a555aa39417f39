"""Where our log lines go: structlog over the standard library's loggers, so that any handler sees `event key=value`.

A Prefect run attaches a handler of its own to the logger `coreimage` (setting `PREFECT_LOGGING_EXTRA_LOGGERS`) and so
has every line in its log; the command line attaches one for the terminal, which shows the story and warnings, or all.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

_ROOT = "coreimage"
_STORY = "coreimage.story"
_TERMINAL = "coreimage-terminal"

story = structlog.get_logger(_STORY)
"""What the person who waits wants to know: a few lines per step, each a sentence without `key=value`."""


def configure() -> None:
    """Sends structlog to the loggers `coreimage.*`, at INFO unless a level was set. Calling it again is harmless."""
    root = logging.getLogger(_ROOT)
    if root.level == logging.NOTSET:
        root.setLevel(logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _render,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def show(level: int) -> None:
    """Shows on standard error, too: at DEBUG everything, at INFO the story and warnings, above only what is that bad.

    Prefect takes handlers away: call it again after its import.
    """
    configure()
    root = logging.getLogger(_ROOT)
    root.setLevel(min(level, logging.INFO))
    for handler in [handler for handler in root.handlers if handler.name == _TERMINAL]:
        root.removeHandler(handler)
    handler = _StderrHandler()
    handler.name = _TERMINAL
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(message)s"))
    if level > logging.DEBUG:
        handler.addFilter(_is_story)
    root.addHandler(handler)
    root.propagate = False


def wants_bars() -> bool:
    """Whether the story is being shown to a terminal, so that a bar may be drawn there."""
    shown = (handler for handler in logging.getLogger(_ROOT).handlers if handler.name == _TERMINAL)
    return any(handler.level <= logging.INFO for handler in shown) and sys.stderr.isatty()


def decimal_size(size_bytes: float) -> str:
    """`512 bytes`, `38.8 MB`: decimal units, as downloads are counted."""
    if size_bytes < 1000:  # noqa: PLR2004
        return f"{size_bytes:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.95:  # noqa: PLR2004
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1000:.1f} TB"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Finds standard error anew for each line: while bars are drawn, it is the one that writes above them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _is_story(record: logging.LogRecord) -> bool:
    return record.name == _STORY or record.levelno >= logging.WARNING


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    message = str(event.pop("event", ""))
    trace = event.pop("exception", None)
    pairs = [f"{key}={_quoted(value)}" for key, value in event.items()]
    return " ".join([message, *pairs]) + (f"\n{trace}" if trace else "")


def _quoted(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or any(char.isspace() for char in text) else text
