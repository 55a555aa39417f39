"""An installation as its owner lives with it: up, runs, reruns from cache, cancel, down, up again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api import LAST, LIVE
from tests.harness.installed import Installed
from tests.harness.workshop import family, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EDGE = "build-channel/tiny:1:edge"


def test_it_prints_where_the_ui_is_and_has_all_deployments(installed: Installed) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", installed.urls["ui"])
    found = installed.api("/deployments/filter", {})
    assert {"tiny:1:edge", "tiny:1:beta", "tiny"} <= {deployment["name"] for deployment in found}
    assert (installed.folder / "var/up/secret.json").stat().st_mode & 0o077 == 0
    again = json.loads(installed.coreimage("--json", "--project", str(installed.product.project_file), "up"))
    assert again == installed.urls, "up again says the same and starts nothing"


def test_up_again_makes_the_deployments_those_of_the_changed_file(installed: Installed) -> None:
    channels: Any = installed.product.config["channels"]
    channels["tiny/1/edge"]["schedule"] = {"cron": "17 3 1 1 *"}
    installed.product.write()
    assert "update build-channel/tiny:1:edge" in installed.coreimage(
        "--project", str(installed.product.project_file), "up"
    )
    (schedule,) = installed.api(f"/deployments/name/{EDGE}")["schedules"]
    assert schedule["schedule"]["cron"] == "17 3 1 1 *"
    del channels["tiny/1/edge"]["schedule"]
    installed.deploy()
    assert installed.api(f"/deployments/name/{EDGE}")["schedules"] == []


def test_a_run_builds_and_an_unchanged_one_ends_soon_saying_why(installed: Installed) -> None:
    first = installed.completed(installed.start(EDGE))
    (build_id,) = installed.build_ids()
    assert first["name"] == f"tiny/1/edge board_amd64 box_amd64 {build_id}"
    before = installed.objects()
    run = installed.start(EDGE)
    second = installed.completed(run)
    said = "nothing to build: archives, configuration and code are as they were"
    wait_until(lambda: said in installed.logs(run), 60, "the last lines of the log, which come after the run's end")
    assert {state for name, state in installed.tasks_to(run, LAST) if name not in LIVE} == {"Cached"}
    assert [key for key in installed.objects() if key not in before and not key.startswith("results/")] == []
    assert second["total_run_time"] < first["total_run_time"] / 2


def test_what_another_channel_wants_too_is_not_built_again(installed: Installed) -> None:
    installed.completed(installed.start(EDGE))
    run = installed.start("build-channel/tiny:1:beta")
    installed.completed(run)
    states = dict(installed.tasks_to(run, LAST))
    assert states["build-rootfs"] == states["build-device"] == "Cached"
    assert states["import-build"] == "Completed"


def test_two_channels_run_side_by_side_and_what_both_want_is_built_once(installed: Installed) -> None:
    installed.product.move_on()
    with installed.waiting_hook() as go_on:
        runs = [installed.start(f"build-channel/tiny:1:{name}") for name in ("edge", "beta")]
        wait_until(lambda: len(building(installed, runs)) == len(runs), 600, "both at the rootfs")
        wait_until(lambda: bool(installed.hooks()), 600, "the hook")
        assert [installed.state(run)["type"] for run in runs] == ["RUNNING"] * 2
        assert len(installed.hooks()) == 1, "one builds, the other waits for it"
        go_on()
        for run in runs:
            installed.completed(run)
    assert sorted(dict(installed.tasks_to(run, LAST))["build-rootfs"] for run in runs) == ["Cached", "Completed"]


def building(installed: Installed, runs: list[str]) -> list[str]:
    """Those of the runs that want a rootfs by now."""
    return [run for run in runs if "build-rootfs" in dict(installed.tasks(run))]


def test_two_runs_of_a_channel_never_overlap_and_never_queue_up(installed: Installed) -> None:
    runs = [installed.start(EDGE) for _ in range(4)]
    states = [installed.finished(run)["state"] for run in runs]
    assert sorted({state["type"] for state in states}) == ["CANCELLED", "COMPLETED"]
    cancelled = [state["message"] for state in states if state["type"] == "CANCELLED"]
    assert set(cancelled) == {"Deployment concurrency limit reached."}


def test_cancel_ends_the_children_and_leaves_nothing_half_written(installed: Installed) -> None:
    installed.product.move_on()  # a rootfs with this hook is remembered
    before = installed.build_ids()
    with installed.waiting_hook():
        run = installed.start(EDGE)
        wait_until(lambda: bool(installed.hooks()), 300, "the hook")
        installed.cancel(run)
        wait_until(lambda: not installed.hooks(), 60, "the end of the hook")
        assert installed.finished(run)["state"]["type"] == "CANCELLED"
    assert installed.build_ids() == before
    installed.completed(installed.start(EDGE))


def test_down_ends_everything_and_the_data_survives(installed: Installed) -> None:
    builds = installed.build_ids()
    runs = installed.api("/flow_runs/count", {})
    members = set(family(installed.supervisor()))
    assert len(members) >= 5
    installed.coreimage("down")
    wait_until(lambda: not [pid for pid in members if Path(f"/proc/{pid}").exists()], 30, "the end of all services")
    installed.start_all()
    assert installed.build_ids() == builds
    assert installed.api("/flow_runs/count", {}) >= runs
