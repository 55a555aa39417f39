"""Runs that are due by themselves: once a day in every time zone, and once for all that was missed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.server.schemas.schedules import CronSchedule as ServersSchedule
from prefect.states import Running, Scheduled

from flows.build import build_channel
from flows.promotion import promote_channel
from flows.running.schedule import drop_missed
from flows.upkeep import check_installation, collect_garbage, expire_channel, forget_old_runs, renew_signatures
from tests.harness.workshop import wait_until

YEAR = 2027
DAYS = 365


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [
        ("30 2 * * *", "Europe/Berlin"),
        ("30 1 * * *", "Europe/London"),
        ("30 1 * * *", "America/New_York"),
        ("15 2 * * *", "Australia/Lord_Howe"),
    ],
)
def test_a_daily_run_comes_once_a_day_also_when_clocks_change(cron: str, timezone: str) -> None:
    """Times of day that a day has twice, or not at all, by the server's own reckoning."""
    start, zone = datetime(YEAR, 1, 1, tzinfo=ZoneInfo(timezone)), ZoneInfo(timezone)
    found = asyncio.run(ServersSchedule(cron=cron, timezone=timezone).get_dates(n=DAYS, start=cast("Any", start)))
    local = [cast("datetime", moment).astimezone(zone) for moment in found]
    assert set(Counter(moment.date() for moment in local).values()) == {1}
    assert len(local) == DAYS
    minute, hour = (int(field) for field in cron.split()[:2])
    moved = [moment for moment in local if (moment.hour, moment.minute) != (hour, minute)]
    assert len(moved) <= 1, "only where that time of day does not exist"
    assert all(abs(moment.hour - hour) <= 1 for moment in moved)


@flow
def nightly() -> None:
    """A flow for the schedule."""


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient) -> Iterator[UUID]:
    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="*/10 * * * *", timezone="UTC"), active=True)
    made = client.create_deployment(client.create_flow(nightly), name="often", schedules=[schedule], entrypoint="x:y")
    yield made
    client.delete_deployment(made)


def runs(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    of_deployment = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    return sorted(client.read_flow_runs(flow_run_filter=of_deployment), key=lambda run: str(run.expected_start_time))


def states(client: SyncPrefectClient, found: list[FlowRun]) -> list[str]:
    return [cast("Any", client.read_flow_run(run.id).state).name for run in found]


def missed(client: SyncPrefectClient, run: FlowRun, hours: int) -> None:
    due = cast("Any", datetime.now(UTC) - timedelta(hours=hours))
    client.set_flow_run_state(run.id, Scheduled(scheduled_time=due), force=True)


def test_the_first_run_after_a_time_without_workers_does_the_work_of_all(
    client: SyncPrefectClient, deployment: UUID
) -> None:
    wait_until(lambda: len(runs(client, deployment)) > 3, 60, "runs of the schedule")
    first, second, third, *later = runs(client, deployment)
    for hours, run in enumerate((first, second, third), start=1):
        missed(client, run, hours)
    asked_for = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(second.id, Running(), force=True)
    drop_missed(nightly, client.read_flow_run(second.id), Running())
    assert states(client, [first, second, third]) == ["Cancelled", "Running", "Cancelled"]
    assert "does its work" in str(cast("Any", client.read_flow_run(first.id).state).message)
    assert states(client, [asked_for]) == ["Scheduled"], "what somebody asked for is done"
    assert set(states(client, later)) == {"Scheduled"}


def test_whatever_runs_by_a_schedule_looks_for_what_was_missed() -> None:
    upkeep = (check_installation, collect_garbage, expire_channel, forget_old_runs, renew_signatures)
    for each in (build_channel, promote_channel, *upkeep):
        assert drop_missed in cast("Any", each).on_running_hooks, each.name
