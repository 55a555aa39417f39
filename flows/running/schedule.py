"""Scheduled runs that were missed while no worker or server was up: one run does the work of all that were due."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import structlog
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled

log = structlog.get_logger("coreimage.schedule")


def drop_missed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - a hook's
    """Cancel the other scheduled runs of a deployment that are overdue when one of them begins (an `on_running` hook).

    The run that begins does their work too. Runs that people started, and those due later, stay.
    """
    if flow_run.deployment_id is None:
        return
    with get_client(sync_client=True) as client:
        for other in _due(flow_run.deployment_id, client):
            if other.auto_scheduled and other.id != flow_run.id:
                message = f"missed; {flow_run.name}, which has just begun, does its work"
                client.set_flow_run_state(other.id, Cancelled(message=message))
                log.info("a scheduled run was missed", run=other.name, was_due=str(other.next_scheduled_start_time))


def _due(deployment: UUID, client: SyncPrefectClient) -> list[FlowRun]:
    now = cast("Any", datetime.now(UTC))
    due = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
        state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled", "Late"])),
        next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(before_=now),
    )
    return client.read_flow_runs(flow_run_filter=due)
