"""Hands Prefect's server what its background threads still hold."""

from __future__ import annotations

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

_WITHIN_S = 20.0


def finish_reporting() -> None:
    """Sends the log lines and events that are still queued. To be called before a server of our own is ended:

    afterwards the threads would go on trying at the exit of the process, for more than a minute.
    """
    APILogWorker.drain_all(timeout=_WITHIN_S)
    EventsWorker.drain_all(timeout=_WITHIN_S)
