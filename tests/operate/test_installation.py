"""An installation as its owner lives with it: up, runs, reruns from cache, cancel, down, up again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.harness.installed import Installed
from tests.harness.workshop import family, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EDGE = "build-channel/tiny:1:edge"


def objects(installed: Installed, prefix: str) -> list[str]:
    script = "import sys; from coreimage.storage import open_store; import json;"
    script += "print(json.dumps([i.key for i in open_store('s3://coreimage').list(sys.argv[1])]))"
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    done = subprocess.run(
        [sys.executable, "-c", script, prefix], env=installed.environment(), capture_output=True, text=True, check=True
    )
    keys: list[str] = json.loads(done.stdout)
    return keys


def build_ids(installed: Installed) -> set[str]:
    return {key.split("/")[4] for key in objects(installed, "cdimage/") if key.endswith("/SHA256SUMS")}


def test_it_prints_where_the_ui_is_and_has_all_deployments(installed: Installed) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", installed.urls["ui"])
    found = installed.api("/deployments/filter", {})
    assert {"tiny:1:edge", "tiny:1:beta", "tiny"} <= {deployment["name"] for deployment in found}
    assert (installed.folder / "var/up/secret.json").stat().st_mode & 0o077 == 0
    again = json.loads(installed.coreimage("--json", "up"))
    assert again == installed.urls, "up again says the same and starts nothing"


def test_a_run_builds_and_an_unchanged_one_ends_soon_saying_why(installed: Installed) -> None:
    first = installed.completed(installed.start(EDGE))
    (build_id,) = build_ids(installed)
    assert first["name"] == f"tiny/1/edge board_amd64 box_amd64 {build_id}"
    before = objects(installed, "")
    run = installed.start(EDGE)
    second = installed.completed(run)
    said = "nothing to build: archives, configuration and code are as they were"
    wait_until(lambda: said in installed.logs(run), 60, "the last lines of the log, which come after the run's end")
    assert {state for name, state in installed.tasks(run) if name not in LIVE} == {"Cached"}
    assert [key for key in objects(installed, "") if key not in before and not key.startswith("results/")] == []
    assert second["total_run_time"] < first["total_run_time"] / 2


LIVE = {"probe-archives", "publish-keyrings", "publish-gadget"}
"""Steps that are never remembered: they look, or write again what must be there."""


def test_what_another_channel_wants_too_is_not_built_again(installed: Installed) -> None:
    installed.completed(installed.start(EDGE))
    run = installed.start("build-channel/tiny:1:beta")
    installed.completed(run)
    states = dict(installed.tasks(run))
    assert states["build-rootfs"] == states["build-device"] == "Cached"
    assert states["import-build"] == "Completed"


def test_two_runs_of_a_channel_never_overlap_and_never_queue_up(installed: Installed) -> None:
    runs = [installed.start(EDGE) for _ in range(4)]
    states = [installed.finished(run)["state"] for run in runs]
    assert sorted({state["type"] for state in states}) == ["CANCELLED", "COMPLETED"]
    cancelled = [state["message"] for state in states if state["type"] == "CANCELLED"]
    assert set(cancelled) == {"Deployment concurrency limit reached."}


def test_a_failed_run_goes_on_where_it_was_once_the_cause_is_mended(installed: Installed) -> None:
    """The signing keys are away when the build is to be signed."""
    key, away = installed.folder / "var/keys/cdimage", installed.folder / "var/keys/away"
    installed.product.move_on()
    key.rename(away)
    run = installed.start(EDGE)
    failed = installed.finished(run)
    away.rename(key)
    assert failed["state"]["type"] == "FAILED"
    assert "cdimage key is not on this machine" in failed["state"]["message"]
    assert "bring the folder from where they are kept" in failed["state"]["message"], "the resolution is in the UI"
    built = [name for name, state in installed.tasks(run) if state == "Completed"]
    assert "build-rootfs" in built
    before = build_ids(installed)
    installed.retry(run)
    done = installed.completed(run)
    assert done["run_count"] == 2
    states = installed.tasks(run)
    assert states.count(("build-rootfs", "Completed")) == 1, "done once, then remembered"
    assert ("build-rootfs", "Cached") in states
    assert ("publish-build", "Failed") in states
    assert ("publish-build", "Completed") in states
    assert len(build_ids(installed)) == len(before) + 1


def test_cancel_ends_the_children_and_leaves_nothing_half_written(installed: Installed) -> None:
    before = build_ids(installed)
    with installed.waiting_hook():
        run = installed.start(EDGE)
        wait_until(lambda: bool(installed.hooks()), 300, "the hook")
        installed.cancel(run)
        wait_until(lambda: not installed.hooks(), 60, "the end of the hook")
        assert installed.finished(run)["state"]["type"] == "CANCELLED"
    assert build_ids(installed) == before
    installed.completed(installed.start(EDGE))


def test_down_ends_everything_and_the_data_survives(installed: Installed) -> None:
    builds = build_ids(installed)
    runs = installed.api("/flow_runs/count", {})
    members = set(family(installed.supervisor()))
    assert len(members) >= 5
    installed.coreimage("down")
    wait_until(lambda: not [pid for pid in members if Path(f"/proc/{pid}").exists()], 30, "the end of all services")
    installed.urls = json.loads(installed.coreimage("--json", "--project", str(installed.product.project_file), "up"))
    assert build_ids(installed) == builds
    assert installed.api("/flow_runs/count", {}) >= runs
