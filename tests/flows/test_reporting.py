"""What a server of our own keeps of earlier runs."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import FlowRunContext

from flows.report.runs import ended_before, forget_old_runs

pytestmark = pytest.mark.usefixtures("prefect_url")
DAY = timedelta(days=1)
REPORTS = 60
"""More than are read at once, and than runs are removed."""


@flow
def leaves_a_report() -> UUID:
    for number in range(REPORTS):
        create_markdown_artifact("# built", key=f"report-{number}")
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


def _recorded(run: UUID) -> tuple[int, int]:
    """How many flow runs and artifacts there are of a run."""
    this = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    with get_client(sync_client=True) as client:
        return len(client.read_flow_runs(flow_run_filter=this)), len(client.read_artifacts(flow_run_filter=this))


def _forget_all(home: Path, before: datetime) -> None:
    """Each call forgets some, and the server holds what other tests ran too."""
    ended = FlowRunFilter(end_time=ended_before(before))
    with get_client(sync_client=True) as client:
        while client.read_flow_runs(flow_run_filter=ended, limit=1):
            forget_old_runs(home, before)


def test_old_runs_go_with_their_reports(tmp_path: Path) -> None:
    run = leaves_a_report()

    forget_old_runs(tmp_path, datetime.now(UTC) - DAY)
    assert _recorded(run) == (1, REPORTS)

    _forget_all(tmp_path, datetime.now(UTC) + DAY)
    assert _recorded(run) == (0, 0)


def test_what_steps_remember_stays(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    names = {name: storage / name for name in (uuid4().hex, f"build-rootfs-{'0' * 64}")}
    for path in names.values():
        path.touch()
        os.utime(path, (0, 0))
    fresh = storage / uuid4().hex
    fresh.touch()

    forget_old_runs(tmp_path, datetime.now(UTC) - DAY)

    assert sorted(storage.iterdir()) == sorted([fresh, storage / f"build-rootfs-{'0' * 64}"])
