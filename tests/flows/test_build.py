"""The wiring of `build_channel`: real Prefect, store and publication; small stand-ins for what builds and boots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, TaskRunResult

from coreimage import boot_test, disk_image, pages, rootfs, system_image
from coreimage.errors import BootError, NotFoundError
from coreimage.model import (
    JSON,
    LOG,
    TAR_GZ,
    ArchiveRelease,
    ArtifactRef,
    BootReport,
    Candidate,
    DeviceBuild,
    DiskImage,
    LockedPackage,
    PackageLock,
    PublishedBuild,
    Release,
    RootfsBuild,
    ToolsTree,
    Value,
)
from coreimage.storage import Store, open_store, put_blob_bytes, read_blob
from flows.build import build_channel
from flows.plan import plan_build
from flows.report.result import BuildResult
from tasks import disk_image as images
from tasks import system_image as channels
from tasks.cache import policy as caching
from tasks.site import Site
from tests.harness.memory_signer import MemorySigner
from tests.harness.workshop import wait_until

CHANNEL, BETA = "tiny/1/edge", "tiny/1/beta"
PROJECT = """
project: tiny
series:
  "1":
    codename: trixie
    archives: [{suites: [trixie]}]
    rootfs: {packages: [base]}
devices:
  board: {architecture: amd64, gadget: gadget, packages: [kernel]}
channels:
  tiny/1/edge: {series: "1", devices: [board]}
  tiny/1/beta: {series: "1", devices: [board]}
"""
DIGEST = "0" * 64


class Spec(Value):
    name: str
    archives: tuple[str, ...] = ("http://archive.test trixie",)
    architecture: str = "amd64"


class OfDevice(Spec):
    device: str = "board"


class Tools(Spec):
    """Of the tools."""


class Rooms:
    """Stand-ins for the stages: they count their calls and store real bytes. `suite` is how the archive stands."""

    def __init__(self, store: Store) -> None:
        self.store, self.calls, self.suite, self.boots = store, list[str](), "1" * 64, True

    def blob(self, content: str, media_type: str = TAR_GZ) -> ArtifactRef:
        return put_blob_bytes(self.store, content.encode(), media_type)

    def probe(self, archives: Any, **effects: Any) -> tuple[ArchiveRelease, ...]:
        self.calls.append("probe")
        uri, suite = archives[0].split()
        release = self.blob(self.suite, "text/plain")
        return (
            ArchiveRelease(
                uri=uri, suite=suite, date="2026-01-01T00:00:00Z", release_sha256=self.suite, release=release
            ),
        )

    def plan(self, spec: Spec, releases: Any, previous: PackageLock | None, **effects: Any) -> ArtifactRef:
        self.calls.append(f"plan {spec.name} {'after another' if previous else 'first'}")
        package = LockedPackage(
            name=spec.name,
            version=self.suite[0],
            architecture="amd64",
            sha256=DIGEST,
            size_bytes=1,
            filename="p.deb",
            archive="a",
        )
        lock = PackageLock(architecture="amd64", epoch=1, packages=(package,), releases=releases)
        if isinstance(spec, Tools):
            lock = lock.model_copy(update={"packages": (), "releases": ()})
        return self.blob(lock.model_dump_json(), JSON)

    def tools(self, lock: ArtifactRef, **effects: Any) -> ToolsTree:
        self.calls.append("tools")
        return ToolsTree(tree=self.blob(f"tree {lock.sha256}"), lock=lock)

    def rootfs(self, spec: Spec, lock: ArtifactRef, *, on_line: Callable[[str], None], **effects: Any) -> RootfsBuild:
        self.calls.append("rootfs")
        on_line("I: extracting the rootfs")
        parts = self.blob(f"rootfs {lock.sha256}"), self.blob("manifest"), self.blob("list"), self.blob("log", LOG)
        tarball, manifest, filelist, log = parts
        return RootfsBuild(
            architecture="amd64", rootfs=tarball, manifest=manifest, filelist=filelist, lock=lock, log=log
        )

    def device(self, spec: Spec, lock: ArtifactRef, **effects: Any) -> DeviceBuild:
        self.calls.append("device")
        tarball, log = self.blob(f"device {lock.sha256}"), self.blob("log", LOG)
        return DeviceBuild(
            device="board", architecture="amd64", tarball=tarball, manifest=self.blob("m"), lock=lock, log=log
        )

    def candidate(self, _: Any, published: PublishedBuild, channel: str, device: str, **effects: Any) -> Candidate:
        self.calls.append("import")
        taken = len(list(self.store.list("system-image/candidates/")))
        document = self.blob(published.build_id, JSON)
        self.store.put_bytes(f"system-image/candidates/{taken + 1}", b"", media_type=JSON)
        return Candidate(
            channel=channel,
            device=device,
            version=taken + 1,
            version_detail="",
            build_id=published.build_id,
            index=document,
            channels=document,
            files=(published.files[0].artifact,),
        )

    def newest(self, channel: str, device: str, site: Site) -> int:
        found = self.store.head("system-image/channels.json")
        return int((Path(self.store.url[7:]) / found.key).read_text()) if found else 0

    def release(self, _: Any, candidate: Candidate, **effects: Any) -> Release:
        self.calls.append("release")
        self.store.put_bytes("system-image/channels.json", str(candidate.version).encode(), media_type=JSON)
        return Release(
            channel=candidate.channel, device=candidate.device, version=candidate.version, index=candidate.index
        )

    def pages(self, *, channels: Any, trees: Any, **effects: Any) -> int:
        assert set(channels) < {CHANNEL, BETA}
        assert [tree.project for tree in trees] == ["tiny"]
        self.calls.append("pages")
        return 1

    def image(self, candidate: Candidate, *rest: Any, **effects: Any) -> DiskImage:
        self.calls.append("assemble")
        return DiskImage(
            channel=candidate.channel,
            device=candidate.device,
            version=candidate.version,
            architecture="amd64",
            image=self.blob(f"image {candidate.build_id}"),
            raw_sha256=DIGEST,
            raw_size_bytes=1,
        )

    def boots_under(
        self, image: Path, sha256: str, firmwares: tuple[Any, ...], architecture: str, **effects: Any
    ) -> tuple[BootReport, ...]:
        return tuple(self.boot(sha256, firmware) for firmware in firmwares)

    def boot(self, sha256: str, firmware: Any) -> BootReport:
        self.calls.append(f"boot {firmware}")
        return BootReport(
            image_sha256=sha256,
            firmware=firmware,
            accelerator="tcg",
            passed=self.boots,
            reason="login prompt" if self.boots else "kernel panic",
            duration_s=1.0,
            serial_log=self.blob("serial"),
            last_lines=("board login:",),
            screenshot=self.blob("screen"),
        )


def require_boot(report: BootReport) -> BootReport:
    if not report.passed:
        raise BootError(f"no boot: {report.reason}", resolution="read the serial log")
    return report


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    (tmp_path / "gadget").mkdir()
    (tmp_path / "tiny.yaml").write_text(PROJECT)
    rooms = Rooms(open_store(str(tmp_path / "store")))
    stages: dict[Any, dict[str, Any]] = {
        rootfs: {
            "rootfs_spec": lambda *a, **k: Spec(name="core"),
            "device_spec": lambda *a, **k: OfDevice(name="kernel"),
            "tools_spec": lambda *a, **k: Tools(name="tools"),
            "ToolsSpec": Tools,
            "build_tools": rooms.tools,
            "probe_archives": rooms.probe,
            "plan_packages": rooms.plan,
            "build_rootfs": rooms.rootfs,
            "build_device": rooms.device,
            "offer_tools": lambda tools, architecture, **k: None,
        },
        system_image: {
            "publish_keyrings": lambda tree: None,
            "import_build": rooms.candidate,
            "release_candidate": rooms.release,
        },
        disk_image: {
            "pack_gadget": lambda folder, **k: rooms.blob("gadget"),
            "unpack_gadget": lambda ref, folder, **k: folder,
            "publish_gadget": lambda folder, **k: None,
            "fetch_image": lambda image, target, **k: target,
            "store_image": lambda image, **k: image,
        },
        boot_test: {"boot_tests": rooms.boots_under, "require_boot": require_boot},
        pages: {"write_pages": rooms.pages},
        channels: {"newest_version": rooms.newest},
        images: {"candidate_session": lambda candidate, store: candidate, "flash": rooms.image},
        Site: {"signer": lambda self: MemorySigner(), "run": lambda self, tools: None},
    }
    for owner, functions in stages.items():
        for name, function in functions.items():
            monkeypatch.setattr(owner, name, function, raising=False)
    return rooms


@pytest.fixture
def build(tmp_path: Path, rooms: Rooms) -> Callable[..., BuildResult]:
    def run(**options: Any) -> BuildResult:
        rooms.calls.clear()
        result: BuildResult = build_channel(
            CHANNEL,
            project_file=str(tmp_path / "tiny.yaml"),
            store_url=str(tmp_path / "store"),
            keys_folder=str(tmp_path / "keys"),
            **options,
        )
        return result

    return run


WHOLE = [
    "probe",
    "plan tools first",
    "tools",
    "plan core first",
    "plan kernel first",
    "rootfs",
    "device",
    "import",
    "assemble",
    "boot bios",
    "boot uefi",
    "release",
    "pages",
]


def test_the_story(build: Callable[..., BuildResult], rooms: Rooms) -> None:
    result = build()
    assert rooms.calls == WHOLE
    assert [device.release.version for device in result.devices] == [1]
    assert not result.unchanged
    pointer = json.loads((Path(rooms.store.url[7:]) / "locks/tiny/1/core/amd64.json").read_text())
    lock = PackageLock.model_validate_json(read_blob(rooms.store, ArtifactRef.model_validate(pointer)))
    assert [package.name for package in lock.packages] == ["core"]


def test_unchanged_only_looks_at_the_archives(build: Callable[..., BuildResult], rooms: Rooms) -> None:
    first = build()
    objects = [found.key for found in rooms.store.list()]
    second = build()
    assert rooms.calls == ["probe"]
    assert second.unchanged
    assert (second.published, second.devices) == (first.published, first.devices)
    assert [found.key for found in rooms.store.list()] == objects


def test_a_changed_archive_is_planned_from_the_last_lock(build: Callable[..., BuildResult], rooms: Rooms) -> None:
    first = build()
    rooms.suite = "2" * 64
    second = build()
    assert rooms.calls[:3] == ["probe", "plan tools after another", "plan core after another"]
    assert second.devices[0].release.version == 2
    assert second.published.build_id == f"{first.published.build_id}.1"


def test_an_older_build_comes_back_as_a_new_version(build: Callable[..., BuildResult], rooms: Rooms) -> None:
    first = build()
    rooms.suite = "2" * 64
    build()
    rooms.suite = "1" * 64
    third = build()
    assert third.published == first.published
    assert third.devices[0].release.version == 3
    assert rooms.calls == ["probe", "import", "assemble", "boot bios", "boot uefi", "release", "pages"]


def test_refresh_does_everything_anew(build: Callable[..., BuildResult], rooms: Rooms) -> None:
    build()
    build(refresh=True)
    assert [call for call in rooms.calls if not call.startswith("plan")] == [
        call for call in WHOLE if not call.startswith("plan")
    ]


def test_a_failed_boot_leaves_the_channel(build: Callable[..., BuildResult], rooms: Rooms) -> None:
    build()
    rooms.suite, rooms.boots = "2" * 64, False
    with pytest.raises(BootError, match="kernel panic"):
        build()
    assert "release" not in rooms.calls
    shown = cast("Any", Artifact.get("console-tiny-1-edge-board-uefi"))
    assert "kernel panic" in shown.description
    assert (Path(rooms.store.url[7:]) / "system-image/channels.json").read_text() == "1"
    rooms.boots = True
    build()
    assert rooms.calls == ["probe", "boot bios", "boot uefi", "release", "pages"]


def told_changes() -> str:
    """The part of the newest run's report that is about packages."""
    text = cast("Any", Artifact.get("build-tiny-1-edge")).data
    return str(text.partition("## Packages")[2].partition("## Tasks")[0].strip())


def test_what_changed_is_told_since_the_last_release_whatever_failed_in_between(
    build: Callable[..., BuildResult], rooms: Rooms
) -> None:
    build()
    assert "first lock: 1 packages" in told_changes()
    build()
    assert told_changes() == "No change: tools for amd64, core for amd64, board for amd64."
    rooms.suite, rooms.boots = "2" * 64, False
    with pytest.raises(BootError):
        build()
    rooms.boots = True
    build()
    assert "core upgraded: 1 → 2" in told_changes()
    assert "kernel upgraded: 1 → 2" in told_changes()
    build()
    assert told_changes() == "No change: tools for amd64, core for amd64, board for amd64."


def test_a_channel_is_told_its_own_changes_though_another_one_had_them_before(
    build: Callable[..., BuildResult], rooms: Rooms, tmp_path: Path
) -> None:
    build()
    rooms.suite = "2" * 64
    other = build_channel(
        BETA,
        project_file=str(tmp_path / "tiny.yaml"),
        store_url=str(tmp_path / "store"),
        keys_folder=str(tmp_path / "keys"),
    )
    assert other.channel == BETA
    build()
    assert "core upgraded: 1 → 2" in told_changes()


def test_unknown_channels_and_devices_are_refused_before_anything_runs(
    build: Callable[..., BuildResult], rooms: Rooms
) -> None:
    with pytest.raises(NotFoundError, match="board"):
        build(devices=("bord",))
    assert rooms.calls == []


def test_the_failure_in_prefect_is_our_error_with_its_resolution(
    build: Callable[..., BuildResult], rooms: Rooms
) -> None:
    rooms.boots = False
    with pytest.raises(BootError):
        build()
    with get_client(sync_client=True) as client:
        newest = max(client.read_flow_runs(), key=lambda run: str(run.created))
        assert newest.state is not None
        assert newest.state.name == "Failed"
        assert "read the serial log" in (newest.state.message or "")


def depends_on(run: FlowRun, count: int) -> dict[str, set[str]]:
    """What the graph of a run shows: each task run by its name, with those that it takes something from."""
    these = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        wait_until(lambda: len(client.read_task_runs(flow_run_filter=these)) >= count, 60, "the task runs")
        runs = client.read_task_runs(flow_run_filter=these)
    names = {each.id: each.name for each in runs}
    inputs = {each.name: [item for items in each.task_inputs.values() for item in items] for each in runs}
    return {
        name: {names[item.id] for item in items if isinstance(item, TaskRunResult)} for name, items in inputs.items()
    }


def test_the_graph_of_a_run_shows_its_tasks_in_words_with_what_they_depend_on(
    build: Callable[..., BuildResult], rooms: Rooms
) -> None:
    build()
    with get_client(sync_client=True) as client:
        newest = max(client.read_flow_runs(), key=lambda run: str(run.created))
    graph = depends_on(newest, 25)
    assert graph["Choosing the packages of the tools"] == {"Looking at the archives"}
    assert graph["Choosing the packages of core for amd64"] == {"Looking at the archives", "Unpacking the tools"}
    assert graph["Building the rootfs for amd64"] == {"Choosing the packages of core for amd64", "Unpacking the tools"}
    assert graph["Publishing the build"] == {"Building the rootfs for amd64", "Building kernel and initrd of board"}
    assert graph["Making the next version for board"] == {"Publishing the build", "Unpacking the tools"}
    assert {"Making the next version for board"} < graph["Making the disk image of board"]
    assert graph["Booting board with BIOS and UEFI"] == {"Making the disk image of board"}
    before = {"Making the next version for board", "Booting board with BIOS and UEFI"}
    assert before <= graph[f"Releasing {CHANNEL} for board"]
    assert graph["Writing the pages"] == {"Publishing the build", f"Releasing {CHANNEL} for board"}


def planned(tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """The reasons of each task that would run, or ()."""
    project, store, keys = (str(tmp_path / name) for name in ("tiny.yaml", "store", "keys"))
    return {action.task: action.reasons for action in plan_build(CHANNEL, project, store, keys, offline=False)}


def test_explain_tells_what_would_run_and_does_nothing(
    build: Callable[..., BuildResult], rooms: Rooms, tmp_path: Path
) -> None:
    never = planned(tmp_path)
    assert rooms.calls == ["probe", "plan tools first"]
    assert never["build-tools"] == ("no earlier run is recorded",)
    assert never["build-rootfs"] == ("waits for plan-packages", "waits for build-tools")
    assert never["release-candidate"] == ("waits for import-build", "waits for boot-test")
    build()
    objects = [(found.key, found.etag) for found in rooms.store.list()]
    rooms.calls.clear()
    assert set(planned(tmp_path).values()) == {()}
    rooms.suite = "2" * 64
    later = planned(tmp_path)
    assert later["plan-packages"] == ("archive trixie changed",)
    assert later["build-rootfs"] == later["build-device"] == ("packages changed (1)",)
    assert not {call.partition(" ")[0] for call in rooms.calls} - {"probe", "plan"}
    assert set(objects) <= {(found.key, found.etag) for found in rooms.store.list()}


def test_the_log_says_why_a_step_runs(
    build: Callable[..., BuildResult], rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    rooms.suite = "2" * 64
    said: list[str] = []
    monkeypatch.setattr(caching.log, "info", lambda event, **_: said.append(event))
    build()
    assert "build-rootfs runs: packages changed (1)" in said
    said.clear()
    build()
    assert not [line for line in said if " runs: " in line]
