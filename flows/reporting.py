"""Which Prefect server hears of a run, what background threads still hold, and what a server of our own keeps."""

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
"""The most that one run removes, and that the server takes; a run adds one itself."""
_READ_AT_ONCE = 200
_BULK_DELETE: Any = "/flow_runs/bulk_delete"
"""The server has it, the client's list of routes does not."""
_RUN_RESULT = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
"""The name of a flow run's own result; a task's starts with the name of the task."""


@contextmanager
def report_to(url: str, own_home: Path | None = None) -> Iterator[None]:
    """Runs in the block are recorded at the server `url`, whatever was set when Prefect was imported.

    `own_home` is the PREFECT_HOME of a server of our own, which lives for one command: nobody waits for its
    heartbeats, and nobody but us removes old records.
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
    """Removes what a server of our own recorded of runs that ended before then, and their results.

    Results of steps stay: they are what the next run remembers.
    """
    with get_client(sync_client=True) as client:
        forget_runs(FlowRunFilter(end_time=ended_before(before)), client)
    for path in (home / "storage").glob("*"):
        if _RUN_RESULT.fullmatch(path.name) and path.stat().st_mtime < before.timestamp():
            path.unlink(missing_ok=True)


def ended_before(moment: datetime) -> FlowRunFilterEndTime:
    return FlowRunFilterEndTime(before_=cast("Any", moment))


def forget_runs(wanted: FlowRunFilter, client: SyncPrefectClient) -> int:
    """Removes at most 50 of them with all their artifacts, and gives how many runs went; the server sees to their logs.

    Artifacts go first: of a run that is gone, nobody would find them.
    """
    found = [run.id for run in client.read_flow_runs(flow_run_filter=wanted, limit=_AT_ONCE)]
    if not found:
        return 0
    these = FlowRunFilter(id=FlowRunFilterId(any_=found))
    while artifacts := client.read_artifacts(flow_run_filter=these, limit=_READ_AT_ONCE):
        for artifact in artifacts:
            client.delete_artifact(artifact.id)
    client.request("POST", _BULK_DELETE, json={"flow_runs": these.model_dump(mode="json")})
    return len(found)


def finish_reporting() -> None:
    """Sends the log lines and events that are still queued. To be called before a server of our own is ended:

    afterwards the threads would go on trying at the exit of the process, for more than a minute.
    """
    APILogWorker.drain_all(timeout=_WITHIN_S)
    EventsWorker.drain_all(timeout=_WITHIN_S)
