"""Which Prefect server hears of a run, and handing it what background threads still hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

_WITHIN_S = 20.0


@contextmanager
def report_to(url: str) -> Iterator[None]:
    """Runs in the block are recorded at the server `url`, whatever was set when Prefect was imported."""
    with temporary_settings({PREFECT_API_URL: url}):
        try:
            yield
        finally:
            finish_reporting()


def finish_reporting() -> None:
    """Sends the log lines and events that are still queued. To be called before a server of our own is ended:

    afterwards the threads would go on trying at the exit of the process, for more than a minute.
    """
    APILogWorker.drain_all(timeout=_WITHIN_S)
    EventsWorker.drain_all(timeout=_WITHIN_S)
