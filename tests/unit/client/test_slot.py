"""A slot: what is applied to it, when it is called whole, and what never is. The integration tests have real deltas."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from coreimage.client import Image, ImageFile, RepositoryError
from coreimage.client.apply import Activity, ApplyPlan, InstallRequest, VerifiedImage, find_upgrade, install
from coreimage.client.errors import NoSpaceError, TargetError
from coreimage.client.slot import InstalledTree, Record, Slot
from coreimage.client.tree import tree_sha256
from tests.unit.client.simulator import DEVICE, EDGE, STABLE, Tree

CONTENT = {"system/etc/issue": b"version", "system/bin/program": b"\x7fELF"}
VERSION_FILE = {"system/etc/ubuntu-build": b"7\n"}


def no_programs(argv: Sequence[str], _source: Path, _target: Path) -> None:
    raise AssertionError(argv)


def tarball(files: dict[str, bytes], removed: str | None = None) -> bytes:
    """Of files and the folders above them, of this user, so that anybody can apply it."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        if removed is not None:
            member = tarfile.TarInfo("removed")
            member.size = len(removed)
            tar.addfile(member, io.BytesIO(removed.encode()))
        folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
        for name in folders:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, 0o755, os.geteuid(), os.getegid()
            tar.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid = len(content), os.geteuid(), os.getegid()
            tar.addfile(member, io.BytesIO(content))
    return lzma.compress(plain.getvalue())


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def slot(self, **options: Callable[[Activity, int, int], None]) -> Slot:
        return Slot(self.folder / "slot", self.folder / "slot.json", self.folder / "work", no_programs, **options)

    def plan(self, files: dict[str, bytes], tree_sha256: str | None = None) -> ApplyPlan:
        """Of one full image of version 7."""
        image = self.image(7, {"ubuntu-1.tar.xz": tarball(files)}, tree_sha256=tree_sha256)
        return ApplyPlan(InstallRequest(EDGE, DEVICE), (image,))

    def image(
        self, version: int, payloads: dict[str, bytes], *, base: int | None = None, tree_sha256: str | None = None
    ) -> VerifiedImage:
        paths, described = [], []
        version_file = {f"version-{version}.tar.xz": tarball(VERSION_FILE)}
        for order, (name, content) in enumerate((payloads | version_file).items()):
            paths.append(self.folder / name)
            paths[-1].write_bytes(content)
            described.append(ImageFile(f"/{name}", f"/{name}.asc", hashlib.sha256(content).hexdigest(), 1, order))
        kind: Literal["full", "delta"] = "full" if base is None else "delta"
        image = Image(version, kind, base, "", "", tuple(described), tree_sha256=tree_sha256)
        return VerifiedImage(image, tuple(paths))

    def files(self) -> dict[str, bytes]:
        root = self.folder / "slot"
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_slot_holds_what_was_applied(world: World) -> None:
    slot, plan = world.slot(), world.plan(CONTENT)
    (world.folder / "slot/system").mkdir(parents=True)
    (world.folder / "slot/system/of-an-older-version").touch()
    assert (slot.held(), slot.tree()) == (None, None)
    slot.apply(plan)
    assert world.files() == CONTENT | VERSION_FILE
    tree = slot.tree()
    assert tree is not None
    content_sha256 = tree_sha256(tree.entries())
    assert slot.held() == Record(EDGE, DEVICE, 7, content_sha256, ())
    assert [entry.name for entry in tree.entries() if entry.kind == "file"] == [
        b"system/bin/program", b"system/etc/issue",
    ]  # fmt: skip
    image = plan.images[0].image
    assert slot.holds(plan.request, image)
    assert slot.holds(plan.request, replace(image, tree_sha256=content_sha256))
    for other in (replace(image, version=8), replace(image, tree_sha256="0" * 64)):
        assert not slot.holds(plan.request, other)
    assert not slot.holds(InstallRequest(STABLE, DEVICE), image)


def test_deltas_are_applied_one_after_the_other_to_what_is_installed(world: World) -> None:
    told: list[tuple[Activity, int, int]] = []

    def tell(activity: Activity, done: int, total: int) -> None:
        told.append((activity, done, total))

    def slot(name: str) -> Slot:
        folder = world.folder
        return Slot(folder / name, folder / f"{name}.json", folder / "work", no_programs, on_progress=tell)

    world.slot().apply(world.plan(CONTENT))
    installed = world.slot().tree()
    first = world.image(8, {"one.tar.xz": tarball({"system/one": b"1"}, "system/bin\n")}, base=7)
    second = world.image(9, {"two.tar.xz": tarball({"system/two": b"2"}, "system/etc\n")}, base=8)
    request = InstallRequest(EDGE, DEVICE, installed_version=7, base=installed)
    slot("c").apply(ApplyPlan(request, (first, second)))
    assert {path.name for path in (world.folder / "c/system").iterdir()} == {"one", "two", "etc"}
    assert [path.name for path in (world.folder / "c/system/etc").iterdir()] == ["ubuntu-build"]
    assert [said for said in told if said[0] == "unpack"] == [("unpack", 1, 2), ("unpack", 2, 2)]
    full = world.image(10, {"full.tar.xz": tarball({"system/all": b"new"})})
    slot("b").apply(ApplyPlan(request, (full, replace(second, image=replace(second.image, base=10)))))
    assert {path.name for path in (world.folder / "b/system").iterdir()} == {"all", "two", "etc"}, "none of the old"


def test_a_file_of_the_content_is_read(world: World) -> None:
    world.slot().apply(world.plan(CONTENT))
    tree = world.slot().tree()
    assert tree
    with tree.open(b"system/etc/issue") as file:
        assert file.read() == b"version"


def test_what_zstd_packed_is_unpacked_by_zstd(world: World) -> None:
    def zstd(argv: Sequence[str], source: Path, target: Path) -> None:
        assert argv[0] == "zstd"
        target.write_bytes(lzma.decompress(source.read_bytes()))

    image = world.image(7, {"ubuntu-1.tar.zst": tarball(CONTENT)})
    slot, record, work = (world.folder / "deep" / name / "below" for name in ("slot", "record", "work"))
    target = Slot(slot, record, work, zstd)
    target.apply(ApplyPlan(InstallRequest(EDGE, DEVICE), (image,)))
    held = target.held()
    assert held
    assert held.version == 7


def test_nothing_outside_of_the_slot_is_emptied(world: World) -> None:
    (world.folder / "elsewhere").mkdir()
    (world.folder / "elsewhere/file").touch()
    for path in (world.folder / "slot/lost+found", world.folder / "work"):
        path.mkdir(parents=True)
    (world.folder / "slot/lost+found/found").touch()
    for path in (world.folder / "slot/link", world.folder / "work/link"):
        path.symlink_to(world.folder / "elsewhere")
    with pytest.raises(TargetError, match="something else writes here"):
        world.slot().apply(world.plan(CONTENT))
    assert (world.folder / "slot/lost+found/found").exists()
    assert (world.folder / "elsewhere/file").exists()
    assert not (world.folder / "slot/link").is_symlink()


def test_a_slot_is_called_whole_only_when_it_is_on_the_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut, only what was synced is sure to be there: the folder must be so before its record."""
    events: list[str] = []
    record, unfinished = world.folder / "slot.json", world.folder / "slot.json.new"
    sync, fsync = os.sync, os.fsync

    def tell_sync() -> None:
        whole = world.files() == CONTENT | VERSION_FILE
        events.append(f"all, of a slot that is {'whole' if whole else 'not whole'}, record {record.exists()}")
        sync()

    def tell_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        entries = ("record", record.exists()), ("unfinished", unfinished.exists()), ("slot", bool(world.files()))
        events.append(f"{path.name}, with {', '.join(name for name, there in entries if there) or 'nothing'}")
        fsync(descriptor)

    world.slot().apply(world.plan({"system/old": b""}))
    monkeypatch.setattr(os, "sync", tell_sync)
    monkeypatch.setattr(os, "fsync", tell_fsync)
    world.slot().apply(world.plan(CONTENT))
    folder = world.folder.name
    assert events == [
        f"{folder}, with slot",
        "all, of a slot that is whole, record False",
        "slot.json.new, with unfinished, slot",
        f"{folder}, with record, slot",
    ]


def test_what_does_not_make_the_version_changes_nothing(world: World) -> None:
    world.slot().apply(world.plan({"system/old": b""}))
    before = world.files(), world.slot().held()
    with pytest.raises(RepositoryError, match="do not make the version"):
        world.slot().apply(world.plan(CONTENT, tree_sha256="0" * 64))
    broken = world.plan(CONTENT)
    broken.images[0].files[0].write_bytes(b"no xz file")
    with pytest.raises(RepositoryError, match="no whole xz file"):
        world.slot().apply(broken)
    broken.images[0].files[0].write_bytes(lzma.compress(b"no tar archive" * 99))
    with pytest.raises(RepositoryError, match=r"ubuntu-1\.tar\.xz: not a tar archive"):
        world.slot().apply(broken)
    broken.images[0].files[0].write_bytes(tarball(CONTENT)[:-50])
    with pytest.raises(RepositoryError, match="no whole xz file"):
        world.slot().apply(broken)
    assert (world.files(), world.slot().held()) == before


@pytest.mark.parametrize("meddling", ["changed", "gone", "more"])
def test_what_does_not_read_back_is_not_called_whole(meddling: str, world: World) -> None:
    issue = world.folder / "slot/system/etc/issue"

    def meddle(activity: Activity, done: int, total: int) -> None:
        if activity == "write" and done == total:
            issue.with_name("more").write_bytes(b"") if meddling == "more" else issue.unlink()
            if meddling == "changed":
                issue.write_bytes(b"VERSION")

    problem = "something else writes here" if meddling == "more" else "does not read back"
    with pytest.raises(TargetError, match=problem):
        world.slot(on_progress=meddle).apply(world.plan(CONTENT))
    assert world.slot().held() is None


def test_what_cannot_be_written_is_named(world: World) -> None:
    (world.folder / "slot").write_text("in the way")
    with pytest.raises(TargetError, match="/slot: cannot be written"):
        world.slot().apply(world.plan(CONTENT))


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b'{"channel": "a"', b"null"])
def test_a_damaged_record_says_nothing(record: bytes, world: World) -> None:
    world.slot().apply(world.plan(CONTENT))
    (world.folder / "slot.json").write_bytes(record)
    assert world.slot().held() is None


def test_xz_of_several_streams(world: World) -> None:
    """As compressors of several threads write them."""
    plan = world.plan(CONTENT)
    plain = lzma.decompress(plan.images[0].files[0].read_bytes())
    plan.images[0].files[0].write_bytes(b"".join(lzma.compress(plain[at : at + 999]) for at in range(0, 99_999, 999)))
    world.slot().apply(plan)
    assert world.files() == CONTENT | VERSION_FILE


# The whole way, from a tree in memory


class Remembering:
    """A target that remembers what it was given."""

    plan: ApplyPlan | None = None

    def holds(self, request: InstallRequest, image: Image) -> bool:
        return self.plan is not None and (self.plan.request, self.plan.version) == (request, image.version)

    def apply(self, plan: ApplyPlan) -> None:
        assert all(path.is_file() for image in plan.images for path in image.files)
        self.plan = plan


@pytest.fixture
def tree() -> Tree:
    """EDGE has deltas from version 1 to 2 and from 2 to 3."""
    tree = Tree()
    tree.add_version(EDGE, 3)
    index = tree.indexes[EDGE, DEVICE]
    steps = [tree.image(EDGE, version, base=version - 1) for version in (2, 3)]
    fulls = [replace(full, tree_sha256=str(full.version) * 64) for full in index.images]
    tree.indexes[EDGE, DEVICE] = replace(index, images=tuple(sorted((*fulls, *steps), key=lambda each: each.version)))
    tree.publish()
    return tree


def base_of(folder: Path) -> InstalledTree:
    folder.mkdir()
    (folder / "file").write_text("content")
    return InstalledTree(folder)


def test_an_update_is_found_downloaded_and_applied(tree: Tree, tmp_path: Path) -> None:
    target, downloads, told = Remembering(), tmp_path / "downloads", list[tuple[Activity, int, int]]()
    (downloads / "of-another-update").mkdir(parents=True)
    (downloads / "file").touch()
    request = InstallRequest(EDGE, DEVICE)
    image = install(tree.session(), request, target, downloads, on_progress=lambda *said: told.append(said))
    assert image is not None
    assert (image.version, image.type) == (3, "full")
    assert target.plan is not None
    (verified,) = target.plan.images
    assert [path.name for path in verified.files] == ["ubuntu-full-0-3.tar.xz", "version-3.tar.xz"]
    assert (verified.payloads, verified.version_files) == (verified.files[:1], verified.files[1:])
    assert not downloads.exists()
    assert [done for _, done, _ in told] == [image.files[0].size_bytes, image.size_bytes]
    assert told[-1] == ("download", image.size_bytes, image.size_bytes)
    tree.requests.clear()
    assert install(tree.session(), request, target, downloads) == image, "it is held already"
    assert not any(path.startswith("pool/") for path in tree.requests)
    assert install(tree.session(), replace(request, installed_version=3), target, downloads) is None


def test_files_may_be_left_out(tree: Tree, tmp_path: Path) -> None:
    target = Remembering()
    install(
        tree.session(), InstallRequest(EDGE, DEVICE, revision=1), target, tmp_path / "downloads",
        leave_out=lambda file: not file.is_version_file,
    )  # fmt: skip
    assert target.plan is not None
    assert [path.name for path in target.plan.images[0].files] == ["version-1.tar.xz"]


def test_there_must_be_room_for_all_that_is_to_be_downloaded(tree: Tree, tmp_path: Path) -> None:
    index = tree.indexes[EDGE, DEVICE]
    full = index.fulls[-1]
    large = replace(full, files=(replace(full.files[0], size_bytes=1 << 40), full.files[1]))
    tree.indexes[EDGE, DEVICE] = replace(index, images=(large,))
    tree.publish()
    with pytest.raises(NoSpaceError, match="are to be downloaded"):
        install(tree.session(), InstallRequest(EDGE, DEVICE), Remembering(), tmp_path / "downloads")


def test_deltas_lead_on_from_the_base_that_the_server_knows(tree: Tree, tmp_path: Path) -> None:
    base = base_of(tmp_path / "slot")

    def bases(**changes: object) -> list[int | None]:
        request = replace(InstallRequest(EDGE, DEVICE, 1, base), **changes)  # type: ignore[arg-type]
        return [image.base for image in find_upgrade(tree.session(), request).images]

    def know_version_1_as(sha256: str | None) -> None:
        index = tree.indexes[EDGE, DEVICE]
        images = [replace(each, tree_sha256=sha256) if each.version == 1 else each for each in index.images]
        tree.indexes[EDGE, DEVICE] = replace(index, images=tuple(images))
        tree.publish()

    index = tree.indexes[EDGE, DEVICE]
    large = [
        each if each.base else replace(each, files=(replace(each.files[0], size_bytes=100_000), *each.files[1:]))
        for each in index.images
    ]
    tree.indexes[EDGE, DEVICE] = replace(index, images=tuple(large))
    know_version_1_as(tree_sha256(base.entries()))
    assert bases() == [1, 2]
    assert bases(base=None) == [None], "without its content no delta fits"
    assert bases(installed_version=0) == [None]
    know_version_1_as("0" * 64)
    assert bases() == [None], "somebody changed it"
    know_version_1_as(None)
    assert bases() == [1, 2], "a server of 2015 does not say"


def test_an_alias_that_leads_elsewhere_counts_nothing_of_what_is_installed(tree: Tree, tmp_path: Path) -> None:
    index = replace(tree.indexes[EDGE, DEVICE], channel="alias", channel_target=EDGE)
    tree.indexes["alias", DEVICE] = index
    tree.publish()
    tree.channels["alias"] = replace(tree.channels["alias"], alias=EDGE)
    tree.put_channels()
    request = InstallRequest("alias", DEVICE, 3, base_of(tmp_path / "slot"), channel_target=EDGE)
    assert find_upgrade(tree.session(), request).images == ()
    moved = replace(request, channel_target=STABLE)
    assert find_upgrade(tree.session(), moved).version == 3


def test_phases_are_of_the_alias_where_there_is_one(tree: Tree) -> None:
    """The device of this machine id is number 51 of 100 in `ubuntu`, version 11, as the original has it."""
    for channel, alias in (("ubuntu", None), ("other", "ubuntu")):
        tree.indexes[channel, DEVICE] = replace(tree.indexes[EDGE, DEVICE], channel=channel, images=())
        for version in (10, 11):
            tree.add_version(channel, version)
        tree.publish()
        tree.channels[channel] = replace(tree.channels[channel], alias=alias)
    for percentage, version in ((50, 10), (51, 11)):
        for channel in ("ubuntu", "other"):
            index = tree.indexes[channel, DEVICE]
            newest = replace(index.images[-1], phased_percentage=percentage)
            tree.indexes[channel, DEVICE] = replace(index, images=(*index.images[:-1], newest))
        tree.publish()
        for channel in ("ubuntu", "other"):
            request = InstallRequest(channel, DEVICE, machine_id="0123456789abcdef")
            assert find_upgrade(tree.session(), request).version == version
            assert find_upgrade(tree.session(), replace(request, machine_id="")).version == 11
