"""The Prefect server that records runs, and the removal of old runs from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterEndTime, FlowRunFilterId
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

_WITHIN_S = 20.0
_KEPT_FOR = timedelta(days=30)
_AT_ONCE = 50
"""How many runs are removed at once: the most that the server accepts. A command adds only one run."""
_READ_AT_ONCE = 200
_BULK_DELETE: Any = "/flow_runs/bulk_delete"
"""A route of the server that the client's list of routes lacks."""
_RUN_RESULT = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
"""The name of the result of a flow run; that of a task begins with the name of the task."""


@contextmanager
def report_to(url: str, own_home: Path | None = None) -> Iterator[None]:
    """Record runs in the block at a server, whatever was set when Prefect was imported.

    Args:
        url: The server's API.
        own_home: The PREFECT_HOME of a server that we started for one command: nobody waits for heartbeats of its runs,
            and only we remove its old records.
    """
    heartbeat = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if own_home else {}
    with temporary_settings({PREFECT_API_URL: url, **heartbeat}):
        if own_home:
            # First, since the server goes on removing log lines while the run goes on.
            with suppress(httpx.HTTPError):
                forget_old_runs(own_home, datetime.now(UTC) - _KEPT_FOR)
        try:
            yield
        finally:
            finish_reporting()


def forget_old_runs(home: Path, before: datetime) -> None:
    """Remove the old runs of a server of our own, and their results.

    Results of tasks stay, since the next run uses them.

    Args:
        home: The server's PREFECT_HOME.
        before: Runs that ended before this moment are old.
    """
    with get_client(sync_client=True) as client:
        forget_runs(FlowRunFilter(end_time=ended_before(before)), client)
    for path in (home / "storage").glob("*"):
        if _RUN_RESULT.fullmatch(path.name) and path.stat().st_mtime < before.timestamp():
            path.unlink(missing_ok=True)


def ended_before(moment: datetime) -> FlowRunFilterEndTime:
    """Return the filter for runs that ended before a moment."""
    return FlowRunFilterEndTime(before_=cast("Any", moment))


def forget_runs(wanted: FlowRunFilter, client: SyncPrefectClient) -> int:
    """Remove at most 50 runs with all their artifacts, and return how many. The server removes their logs.

    Artifacts are removed first: those of a removed run could not be found any more.
    """
    ids = [run.id for run in client.read_flow_runs(flow_run_filter=wanted, limit=_AT_ONCE)]
    if not ids:
        return 0
    these = FlowRunFilter(id=FlowRunFilterId(any_=ids))
    while artifacts := client.read_artifacts(flow_run_filter=these, limit=_READ_AT_ONCE):
        for artifact in artifacts:
            client.delete_artifact(artifact.id)
    client.request("POST", _BULK_DELETE, json={"flow_runs": these.model_dump(mode="json")})
    return len(ids)


def finish_reporting() -> None:
    """Send the log lines and events that are still queued, before a server of our own is ended.

    After the server has ended, the threads that send them would retry for more than a minute at the process's exit.
    """
    APILogWorker.drain_all(timeout=_WITHIN_S)
    EventsWorker.drain_all(timeout=_WITHIN_S)
