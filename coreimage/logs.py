"""Where log lines go: structlog over the standard library's loggers, so that any handler gets `event key=value`.

A Prefect run attaches its own handler to the logger `coreimage` (setting `PREFECT_LOGGING_EXTRA_LOGGERS`), and so has
every line in its log. The command line attaches one for the terminal, which shows the story and warnings, or all lines.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

_ROOT = "coreimage"
_STORY = "coreimage.story"
_TERMINAL = "coreimage-terminal"

story = structlog.get_logger(_STORY)
"""The log for the person who waits: a few lines per task, each a sentence without `key=value`."""


def configure() -> None:
    """Send structlog to the loggers `coreimage.*`, at INFO unless a level was set. It may be called again."""
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
    """Show log lines on standard error as well. Prefect removes handlers: call this again after its import.

    Args:
        level: At DEBUG every line is shown; at INFO the story and warnings; above, only lines of at least that level.
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
    """Return whether the story is shown at a terminal, so that progress bars may be drawn there."""
    handlers = (handler for handler in logging.getLogger(_ROOT).handlers if handler.name == _TERMINAL)
    return any(handler.level <= logging.INFO for handler in handlers) and sys.stderr.isatty()


def printable(text: str) -> str:
    """Return text of others as it may be shown: control characters but line ends and tabs are escaped."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char)[0] != "C" else char.encode("unicode_escape").decode()
        for char in text
    )


def decimal_size(size_bytes: float) -> str:
    """Return a size for people in decimal units, as downloads are counted: `512 bytes`, `38.8 MB`."""
    if size_bytes < 1000:  # noqa: PLR2004
        return f"{size_bytes:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.95:  # noqa: PLR2004
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1000:.1f} TB"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Looks up `sys.stderr` for each line: while bars are drawn, it is a stream that writes above them."""

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
    return printable(" ".join([message, *pairs]) + (f"\n{trace}" if trace else ""))


def _quoted(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or any(char.isspace() for char in text) else text
