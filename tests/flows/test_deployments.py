"""One file describes a project: what a Prefect server has after `coreimage deploy`, again, and after a change."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.server.schemas.schedules import CronSchedule as Scheduled

from coreimage.errors import UsageError
from deployments.deploy import deploy_project
from deployments.plan import BY_HAND

PROJECT = """
project: tiny
series:
  "1":
    codename: trixie
    archives: [{suites: [trixie]}]
    rootfs: {packages: [base]}
devices:
  board: {architecture: amd64, gadget: gadget, packages: [kernel]}
  box: {architecture: amd64, gadget: gadget, packages: [kernel]}
channels:
  tiny/1/edge:
    series: "1"
    devices: [board, box]
    schedule: {cron: "17 3 * * *", timezone: Europe/Berlin}
    retention: {keep_count: 3}
  tiny/1/beta: {series: "1", devices: [board]}
  tiny/1/stable:
    series: "1"
    devices: [board]
    promotion: {source: tiny/1/edge, schedule: {cron: "0 6 * * *"}, min_age_hours: 24, phase: 10}
"""


class Deployed:
    """The project's file, and what the server has of it."""

    def __init__(self, folder: Path, client: SyncPrefectClient) -> None:
        (folder / "gadget").mkdir()
        self.file, self.store_url, self.client = folder / "tiny.yaml", str(folder / "store"), client
        self.file.write_text(PROJECT)

    def deploy(self, *, dry_run: bool = False) -> list[str]:
        changes = deploy_project(self.file, self.store_url, dry_run=dry_run)
        return [f"{change.action} {change.name}" for change in changes if "machine is gone" not in change.name]

    def change(self, old: str, new: str) -> None:
        assert old in self.file.read_text()
        self.file.write_text(self.file.read_text().replace(old, new))

    def all(self) -> dict[str, DeploymentResponse]:
        found = [deployment for deployment in self.client.read_deployments() if "project:tiny" in deployment.tags]
        flows = {flow.id: flow.name for flow in self.client.read_flows()}
        return {f"{flows[deployment.flow_id]}/{deployment.name}": deployment for deployment in found}


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    with get_client(sync_client=True) as client:
        made = Deployed(tmp_path, client)
        yield made
        for deployment in made.all().values():
            client.delete_deployment(deployment.id)


EDGE, BETA = "build-channel/tiny:1:edge", "build-channel/tiny:1:beta"
PROMOTION = "promote-channel/tiny:1:stable"
NAMES = {EDGE, BETA, "check-installation/tiny", "collect-garbage/tiny", "forget-runs/tiny", "renew-signatures/tiny"}
NAMES |= {f"expire-channel/tiny:1:{name}" for name in ("beta", "edge", "stable")}
NAMES |= {"build-channel/tiny:1:stable", PROMOTION}
NAMES |= {f"{flow.name}/tiny" for flow in BY_HAND}


def test_one_deployment_per_channel_and_purpose(deployed: Deployed) -> None:
    assert set(deployed.deploy(dry_run=True)) == {f"create {name}" for name in NAMES}
    assert deployed.all() == {}, "a dry run does nothing"
    assert not Path(deployed.store_url).exists()
    deployed.deploy()
    found = deployed.all()
    assert set(found) == NAMES
    (schedule,) = found[EDGE].schedules
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("17 3 * * *", "Europe/Berlin")
    assert found[BETA].schedules == []
    assert [entry.schedule.cron for entry in found[PROMOTION].schedules] == ["0 6 * * *"]  # type: ignore[union-attr]
    assert found[EDGE].work_queue_name == "signing"
    assert found["collect-garbage/tiny"].work_queue_name == "build"


def test_again_changes_nothing_and_a_change_is_one(deployed: Deployed) -> None:
    deployed.deploy()
    before = {name: (found.id, found.updated) for name, found in deployed.all().items()}
    assert deployed.deploy() == []
    assert {name: (found.id, found.updated) for name, found in deployed.all().items()} == before
    deployed.change('cron: "17 3', 'cron: "18 3')
    changes = deploy_project(deployed.file, deployed.store_url, dry_run=True)
    (edge,) = [change for change in changes if change.name == EDGE]
    assert "cron: 17 3 * * * → 18 3 * * *" in edge.details


def test_another_process_finds_nothing_to_change_either(deployed: Deployed, prefect_url: str) -> None:
    """Sets have another order in each; automations have some."""
    said = []
    for seed in ("1", "9", "23"):
        argv = [sys.executable, "-m", "coreimage.cli", "--store", deployed.store_url, "--project", str(deployed.file)]
        environment = {**os.environ, "PREFECT_API_URL": prefect_url, "PYTHONHASHSEED": seed}
        done = subprocess.run([*argv, "deploy"], env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout.strip())
    assert said[0].startswith("create")
    assert said[1:] == ["nothing to change"] * 2


def test_a_schedule_that_somebody_paused_stays_paused(deployed: Deployed) -> None:
    deployed.deploy()
    edge = deployed.all()[EDGE]
    deployed.client.update_deployment_schedule(edge.id, edge.schedules[0].id, active=False)
    deployed.change('cron: "17 3', 'cron: "18 3')
    deployed.deploy()
    (schedule,) = deployed.all()[EDGE].schedules
    assert schedule.id == edge.schedules[0].id
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.active) == ("18 3 * * *", False)


def test_what_is_gone_from_the_file_loses_its_deployments(deployed: Deployed) -> None:
    deployed.deploy()
    deployed.change('  tiny/1/beta: {series: "1", devices: [board]}\n', "")
    deployed.change('    schedule: {cron: "17 3 * * *", timezone: Europe/Berlin}\n', "")
    removed = {change for change in deployed.deploy() if change.startswith("remove")}
    assert removed == {f"remove {BETA}", "remove expire-channel/tiny:1:beta"}
    assert set(deployed.all()) == NAMES - {BETA, "expire-channel/tiny:1:beta"}
    assert deployed.all()[EDGE].schedules == []


def test_the_form_offers_choices_and_refuses_others(deployed: Deployed) -> None:
    deployed.deploy()
    edge = deployed.all()[EDGE]
    properties = (edge.parameter_openapi_schema or {})["properties"]
    assert properties["devices"]["items"]["enum"] == ["board", "box"]
    assert properties["channel"]["enum"] == ["tiny/1/edge"]
    assert set(properties) == {"channel", "devices", "refresh", "offline", "keep_locks"}
    assert all("description" in properties[name] for name in properties), "people read what each is for"
    deployed.client.create_flow_run_from_deployment(edge.id, parameters={"devices": ["box"]})
    for wrong in ({"devices": ["bord"]}, {"channel": "tiny/1/beta"}, {"refresh": "perhaps"}):
        with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
            deployed.client.create_flow_run_from_deployment(edge.id, parameters=wrong)


def test_each_operation_has_a_form_of_its_own_fields(deployed: Deployed) -> None:
    deployed.deploy()
    found = deployed.all()
    promotion = found["promote-version/tiny"]
    properties = (promotion.parameter_openapi_schema or {})["properties"]
    assert set(properties) == {"source", "target", "device", "version", "percentage", "delta_bases"}
    assert properties["source"]["anyOf"][0]["enum"] == ["tiny/1/edge", "tiny/1/beta", "tiny/1/stable"]
    assert properties["device"]["anyOf"][0]["enum"] == ["board", "box"]
    for name in NAMES:
        schema = found[name].parameter_openapi_schema or {}
        assert all("description" in field for field in schema["properties"].values()), name
        assert found[name].description, name
    given = {"source": "tiny/1/edge", "target": "made-by-hand", "device": "board"}
    deployed.client.create_flow_run_from_deployment(promotion.id, parameters=given)
    rotation = found["rotate-key/tiny"]
    deployed.client.create_flow_run_from_deployment(rotation.id, parameters={"role": "image-signing"})
    for deployment, wrong in (
        (promotion, {"source": "tiny/1/edge", "device": "board"}),
        (promotion, {**given, "percentage": 101}),
        (rotation, {"role": "image-singing"}),
    ):
        with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
            deployed.client.create_flow_run_from_deployment(deployment.id, parameters=wrong)


@pytest.mark.parametrize(
    ("cron", "first", "last"),
    [
        ("17 3 * * *", "2027-03-26", "2027-03-31"),  # summer begins on the 28th: 02:00 becomes 03:00
        ("30 2 * * *", "2027-03-26", "2027-03-31"),  # there is no 02:30 on that day
        ("17 3 * * *", "2027-10-29", "2027-11-03"),  # summer ends on the 31st: 03:00 becomes 02:00
        ("30 2 * * *", "2027-10-29", "2027-11-03"),  # there are two 02:30 on that day
    ],
)
def test_a_daily_run_is_daily_when_the_clocks_change(cron: str, first: str, last: str) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start, end = (datetime.fromisoformat(day).replace(tzinfo=berlin) for day in (first, last))
    due = [found.astimezone(berlin) for found in asyncio.run(_dates(cron, start, end))]
    days = [start.date() + timedelta(days=number) for number in range((end.date() - start.date()).days)]
    assert [found.date() for found in due] == days, "one a day, none left out"
    usual = [found for found in due if found.date() not in CHANGES]
    assert {f"{found.minute} {found.hour}" for found in usual} == {" ".join(cron.split()[:2])}


CHANGES = {date(2027, 3, 28), date(2027, 10, 31)}


async def _dates(cron: str, start: datetime, end: datetime) -> list[datetime]:
    """As the server's scheduler asks for them."""
    schedule = Scheduled(cron=cron, timezone="Europe/Berlin")
    return list(await schedule.get_dates(n=100, start=cast("Any", start), end=cast("Any", end)))


def test_two_channels_never_share_a_deployment(deployed: Deployed) -> None:
    deployed.change("  tiny/1/beta:", "  tiny:1:edge:")
    with pytest.raises(UsageError, match="two channels"):
        deployed.deploy()
