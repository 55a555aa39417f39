"""A schedule that nobody could follow for a while: what was missed is done once, and never two runs at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.harness.installed import Installed
from tests.harness.workshop import wait_until
from tests.operate.often import NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).parents[2]
MISSED = 3
WAITING = {"Scheduled", "Late", "AwaitingConcurrencySlot", "Pending", "Running"}
_WITHIN_S = 600.0


@pytest.fixture
def deployment(installed: Installed) -> Iterator[str]:
    """Due every minute, on a queue that gives out one run at a time: a queue could work missed runs off."""
    subprocess.run(
        [sys.executable, "-m", "tests.operate.often"], env=environment(installed), cwd=REPOSITORY, check=True
    )
    queue = installed.api("/work_pools/coreimage/queues/build")
    installed.api("/work_pools/coreimage/queues/build", {"concurrency_limit": 1}, method="PATCH")
    found = installed.api(f"/deployments/name/{NAME}")["id"]
    yield found
    installed.api(f"/deployments/{found}", method="DELETE")
    limit = {"concurrency_limit": queue["concurrency_limit"]}
    installed.api("/work_pools/coreimage/queues/build", limit, method="PATCH")


def environment(installed: Installed) -> dict[str, str]:
    return {**installed.environment(), "PYTHONPATH": str(REPOSITORY)}


def due(installed: Installed, deployment: str) -> list[dict[str, Any]]:
    """Its runs whose time has come, in that order."""
    document = {"flow_runs": {"deployment_id": {"any_": [deployment]}}, "limit": 200}
    found = installed.api("/flow_runs/filter", document)
    return sorted((run for run in found if expected_s(run) <= time.time()), key=expected_s)


def expected_s(run: dict[str, Any]) -> float:
    return moment(run["expected_start_time"]).timestamp()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def settled(installed: Installed, deployment: str, wanted: set[str]) -> list[dict[str, Any]]:
    """Those runs, once they are over."""

    def over() -> bool:
        names = {run["id"]: run["state"]["name"] for run in due(installed, deployment)}
        return not {names[run] for run in wanted} & WAITING

    wait_until(over, _WITHIN_S, "the end of what was missed")
    return [run for run in due(installed, deployment) if run["id"] in wanted]


def late(installed: Installed, deployment: str) -> set[str]:
    return {run["id"] for run in due(installed, deployment) if run["state"]["name"] == "Late"}


def completed(installed: Installed, deployment: str) -> list[dict[str, Any]]:
    return [run for run in due(installed, deployment) if run["state"]["type"] == "COMPLETED"]


def assert_done_once(missed: list[dict[str, Any]]) -> None:
    states = [run["state"]["name"] for run in missed]
    assert sorted(states) == ["Cancelled"] * (len(states) - 1) + ["Completed"], states


def assert_one_at_a_time(runs: list[dict[str, Any]]) -> None:
    spans = sorted((moment(run["start_time"]), moment(run["end_time"])) for run in runs if run["start_time"])
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans


def test_what_was_missed_without_a_worker_is_done_once(installed: Installed, deployment: str) -> None:
    worker = installed.worker()
    os.kill(worker, signal.SIGSTOP)
    try:
        wait_until(lambda: len(late(installed, deployment)) >= MISSED, _WITHIN_S, "late runs")
        missed = late(installed, deployment)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert_done_once(settled(installed, deployment, missed))
    assert_one_at_a_time(completed(installed, deployment))


def test_what_was_missed_while_all_was_down_is_done_once(installed: Installed, deployment: str) -> None:
    wait_until(lambda: completed(installed, deployment) != [], _WITHIN_S, "a run")
    installed.coreimage("down")
    down = time.time()
    time.sleep(60 * MISSED)
    up = time.time()
    installed.start_all()
    missed = {run["id"] for run in due(installed, deployment) if down < expected_s(run) < up}
    assert len(missed) >= MISSED
    assert_done_once(settled(installed, deployment, missed))
    assert_one_at_a_time(completed(installed, deployment))
