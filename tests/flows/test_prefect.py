"""What we rely on Prefect for, and what a plain installation of it gets wrong: each measured pitfall has its test."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import structlog
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.schedules import CronSchedule
from prefect.context import FlowRunContext

from coreimage.host.process import run
from flows.report.runs import finish_reporting
from tasks.site import live_lines
from tests.harness.ordinary_user import ROOT_DIR

REPOSITORY = Path(__file__).resolve().parents[2]


def awaited(found: Callable[[], object], within_s: float) -> object:
    """What `found` gives once it is true."""
    deadline = time.monotonic() + within_s
    while not (value := found()):
        assert time.monotonic() < deadline, "it never came"
        threading.Event().wait(0.2)
    return value


@flow
def nightly() -> None:
    """A flow for the schedule."""


def test_the_server_of_the_pinned_versions_can_be_imported() -> None:
    run([sys.executable, "-c", "from prefect.server.api.server import create_app; create_app()"], env=_environment())


def test_a_cron_schedule_really_creates_runs() -> None:
    with get_client(sync_client=True) as client:
        schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="* * * * *", timezone="UTC"), active=True)
        deployment_id = client.create_deployment(
            client.create_flow(nightly), name="every-minute", schedules=[schedule], entrypoint="nightly.py:nightly"
        )
        of_deployment = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
        runs = awaited(lambda: client.read_flow_runs(flow_run_filter=of_deployment), 60)
        assert isinstance(runs, list)
        assert {run.state.name for run in runs} == {"Scheduled"}


KEY = """
from pathlib import Path
from coreimage.model import ArtifactRef, ArchiveRelease
from tasks.cache.policy import ArtifactPolicy
from tasks.site import Site
ref = ArtifactRef(uri="x", sha256="a" * 64, size_bytes=1, media_type="application/gzip")
site = Site(store_url="s", keys_folder="k")
inputs = {"spec": {"b": {"x", "y", "z"}, "a": (1, 2.5, None)}, "lock": ref, "site": site}
source = Path("%s") / "tasks/rootfs.py"
print(ArtifactPolicy(source=source).inputs("build-rootfs", inputs).key)
"""


def test_keys_are_the_same_in_every_process(tmp_path: Path) -> None:
    def key(seed: str, folder: Path) -> str:
        env = _environment() | {"PYTHONHASHSEED": seed, "TMPDIR": str(folder)}
        return run([sys.executable, "-c", KEY % ROOT_DIR], env=env, cwd=folder).output

    other = tmp_path / "elsewhere"
    other.mkdir()
    found = key("1", tmp_path)
    assert found.startswith("build-rootfs-")
    assert key("4711", other) == found


@task
def chatty(folder: Path) -> None:
    """One structured line, and a child's two."""
    structlog.get_logger("coreimage.chatty").info("unpacked", members=3, place="a b")
    run(["sh", "-c", "echo first; echo second >&2"], on_line=live_lines("child"), cwd=folder)


@flow
def talking(folder: Path) -> UUID:
    """Gives its run's id."""
    chatty(folder)
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


def test_our_lines_and_those_of_children_are_in_the_log_of_the_run(tmp_path: Path) -> None:
    run_id = talking(tmp_path)
    finish_reporting()
    with get_client(sync_client=True) as client:
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))

        def lines() -> set[tuple[str, str]]:
            found = {(entry.name, entry.message) for entry in client.read_logs(log_filter=of_run)}
            wanted = {
                ("coreimage.chatty", "unpacked members=3 place='a b'"),
                ("coreimage.child", "first"),
                ("coreimage.child", "second"),
            }
            return found & wanted if wanted <= found else set()

        assert awaited(lines, 20)


RETRIED = """
from pathlib import Path
from prefect import flow
from coreimage.errors import BuildError
from coreimage.model import TEXT, ArtifactRef
from coreimage.storage import put_blob_bytes
from tasks.factory import artifact_task
from tasks.site import Site

@artifact_task(code=["coreimage.errors"])
def good(*, site: Site) -> ArtifactRef:
    return put_blob_bytes(site.store(), b"good", TEXT)

@artifact_task(code=["coreimage.errors"])
def bad(part: ArtifactRef, *, site: Site) -> ArtifactRef:
    if not Path("mended").exists():
        raise BuildError("not yet")
    return part

@flow
def two(folder: str) -> None:
    "The second task fails until `mended` exists."
    site = Site(store_url=f"{folder}/store", keys_folder=folder)
    bad(good(site=site), site=site)

if __name__ == "__main__":
    two(".")
"""


def test_a_failed_run_goes_on_from_where_it_was_under_the_same_id(tmp_path: Path, prefect_url: str) -> None:
    (tmp_path / "retried.py").write_text(RETRIED)
    env = _environment() | {"PREFECT_API_URL": prefect_url, "PREFECT_HOME": str(tmp_path / "home")}
    run([sys.executable, "retried.py"], env=env, cwd=tmp_path, accept=(1,))
    with get_client(sync_client=True) as client:
        failed = next(found for found in client.read_flow_runs() if found.parameters == {"folder": "."})
        assert failed.state is not None
        assert failed.state.name == "Failed"
        (tmp_path / "mended").touch()
        retry = [sys.executable, "-m", "prefect", "flow-run", "retry", str(failed.id), "--entrypoint", "retried.py:two"]
        run(retry, env=env, cwd=tmp_path)
        again = client.read_flow_run(failed.id)
        assert again.state is not None
        assert (again.state.name, again.run_count) == ("Completed", 2)
        states = awaited(lambda: _states(client, failed.id), 20)
    assert states == {("Good", "Completed"), ("Good", "Cached"), ("Bad", "Failed"), ("Bad", "Completed")}


def _states(client: object, run_id: UUID) -> set[tuple[str, str]]:
    from prefect.client.schemas.filters import FlowRunFilterId  # noqa: PLC0415

    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    runs = client.read_task_runs(flow_run_filter=of_run)  # type: ignore[attr-defined]
    states = {(found.name, found.state.name) for found in runs}
    return states if len(states) == 4 else set()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])}
