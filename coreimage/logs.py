"""Where our log lines go: structlog over the standard library's loggers, so that any handler sees `event key=value`.

A Prefect run attaches a handler of its own to the logger `coreimage` (setting `PREFECT_LOGGING_EXTRA_LOGGERS`) and so
has every line in its log; the command line attaches one for the terminal.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_ROOT = "coreimage"
_TERMINAL = "coreimage-terminal"


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
    """Prints what is at least `level` on standard error, too. Prefect takes handlers away: call it after its import."""
    configure()
    root = logging.getLogger(_ROOT)
    root.setLevel(min(level, logging.INFO))
    for handler in [handler for handler in root.handlers if handler.name == _TERMINAL]:
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.name = _TERMINAL
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)
    root.propagate = False


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    message = str(event.pop("event", ""))
    trace = event.pop("exception", None)
    pairs = [f"{key}={_quoted(value)}" for key, value in event.items()]
    return " ".join([message, *pairs]) + (f"\n{trace}" if trace else "")


def _quoted(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or any(char.isspace() for char in text) else text
