from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.errors import NotFoundError, UsageError
from coreimage.model import ArchiveRelease, ArtifactRef, LockedPackage, PackageLock, ToolsTree
from coreimage.rootfs.lock import (
    Offline,
    configuration,
    keep_previous,
    lock_pointer,
    move_lock_pointer,
    named_lock,
    offline_lock,
    read_lock,
    store_lock,
)
from coreimage.rootfs.lock_diff import lock_diff
from coreimage.rootfs.spec import ArchiveSpec, DeviceSpec, HookSpec, RootfsSpec
from coreimage.rootfs.tools_tree import versions_of
from coreimage.storage import open_store


def ref(digit: str) -> ArtifactRef:
    return ArtifactRef(uri=f"blobs/{digit}", sha256=digit * 64, size_bytes=0, media_type="x")


ARCHIVE = ArchiveSpec(uri="http://a.test", suites=("s",), components=("main",), key=ref("0"))
SPEC = RootfsSpec(
    architecture="amd64",
    hostname="core",
    archives=(ARCHIVE,),
    packages=("a",),
    system_files=ref("1"),
    hooks=(HookSpec(name="10-users.sh", script=ref("2")),),
)


def package(name: str = "a", version: str = "1", sha256: str = "1", archive: str = "u s") -> LockedPackage:
    return LockedPackage(
        name=name,
        version=version,
        architecture="all",
        sha256=sha256 * 64,
        size_bytes=1,
        filename="f",
        archive=archive,
    )


def release(date: str) -> ArchiveRelease:
    return ArchiveRelease(uri="u", suite="s", date=date, release_sha256="3" * 64, release=ref("3"))


def lock(epoch: int = 1, *packages: LockedPackage, tar: str = "1.34") -> PackageLock:
    return PackageLock(
        architecture="amd64",
        epoch=epoch,
        packages=packages or (package(),),
        releases=(release(f"day {epoch}"),),
        tools={"tar": tar},
        configuration=configuration(SPEC),
    )


def test_a_moved_archive_keeps_the_lock_as_it_was() -> None:
    assert keep_previous(lock(1), lock(2)) == lock(1)
    assert keep_previous(None, lock(2)) == lock(2)


def test_other_packages_make_another_lock_with_its_own_epoch() -> None:
    assert keep_previous(lock(1), lock(2, package(version="2"))) == lock(2, package(version="2"))


def test_other_tools_make_another_lock_with_the_earlier_epoch() -> None:
    kept = keep_previous(lock(1), lock(2, tar="1.35"))
    assert kept == lock(1, tar="1.35")
    assert kept != lock(1)


def test_each_part_of_the_configuration_has_a_digest_of_its_own() -> None:
    plain = configuration(SPEC)
    assert list(plain) == sorted(plain)

    def changed(**update: object) -> set[str]:
        other = configuration(SPEC.model_copy(update=update))
        return {name for name in plain.keys() | other.keys() if plain.get(name) != other.get(name)}

    assert changed(hooks=(HookSpec(name="10-users.sh", script=ref("9")),)) == {"hook 10-users.sh"}
    assert changed(packages=("a", "b")) == {"packages"}
    assert changed(overlay=ref("5")) == {"overlay"}
    assert changed(hostname="x") == {"host name"}
    assert changed(system_files=ref("6")) == {"system files"}
    assert changed(archives=(ARCHIVE, ARCHIVE)) == {"archives"}
    hooks = (HookSpec(name="20.sh", script=ref("4")), *SPEC.hooks)
    assert changed(hooks=hooks) == {"hook 20.sh", "hooks"}
    assert changed(hooks=()) == {"hook 10-users.sh", "hooks"}


def test_every_field_of_a_spec_is_part_of_its_configuration() -> None:
    """A field added to a spec must be added to `configuration`, or a lock would not tell of its change."""
    covered = {"architecture", "hostname", "archives", "packages", "system_files", "overlay", "hooks", "device"}
    assert set(RootfsSpec.model_fields) | set(DeviceSpec.model_fields) == covered


def test_offline_takes_the_current_packages_with_the_present_tools_and_hooks() -> None:
    spec = SPEC.model_copy(update={"hooks": (HookSpec(name="10-users.sh", script=ref("9")),)})
    found = offline_lock(lock(), spec, {"tar": "1.35"}, "c")
    assert (found.packages, found.epoch, found.tools) == (lock().packages, 1, {"tar": "1.35"})
    assert found.configuration == configuration(spec)
    assert offline_lock(lock(), SPEC, {"tar": "1.34"}, "c") == lock()


def test_offline_refuses_what_the_lock_was_not_planned_for() -> None:
    with pytest.raises(NotFoundError, match="no lock"):
        offline_lock(None, SPEC, {}, "c")
    with pytest.raises(UsageError, match="project file has other packages"):
        offline_lock(lock(), SPEC.model_copy(update={"packages": ("a", "b")}), {}, "c")
    with pytest.raises(UsageError, match="archives"):
        offline_lock(lock(), SPEC.model_copy(update={"archives": ()}), {}, "c")


def test_offline_downloads_nothing_and_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"a_1_all\.deb is not in the store"):
        Offline()("http://a.test/pool/a_1_all.deb", tmp_path / "x")


def test_the_pointer_names_the_current_and_the_previous_lock(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    pointer = lock_pointer("p", "13", "core", "amd64")
    assert named_lock(pointer, store) is None
    first, second = store_lock(store, lock(1)), store_lock(store, lock(2, package(version="2")))
    move_lock_pointer(pointer, first, store)
    assert named_lock(pointer, store, "previous") is None
    for _ in range(2):
        move_lock_pointer(pointer, second, store)
        assert named_lock(pointer, store) == read_lock(store, second)
        assert named_lock(pointer, store, "previous") == read_lock(store, first)


def test_a_lock_of_before_tools_were_locked_can_be_read() -> None:
    old = lock().model_dump(exclude={"tools", "configuration"})
    assert PackageLock.model_validate(old).tools == {}


def test_a_diff_tells_packages_archives_tools_and_configuration() -> None:
    old = lock(1, package("a"), package("b"), package("c"), package("d"))
    new = lock(2, package("a", "2"), package("c", sha256="9"), package("d", archive="v s"), package("e"), tar="1.35")
    changed = new.model_copy(update={"configuration": {**new.configuration, "hook 10-users.sh": "8" * 64}})
    assert lock_diff(old, changed).lines() == (
        "package a upgraded: 1 → 2",
        "package b removed: 1",
        "package e added: 1",
        "package c: 111111111111 → 999999999999, the version being the same",
        "package d: u s → v s",
        "archive u s: day 1 (333333333333) → day 2 (333333333333)",
        "tool tar: 1.34 → 1.35",
        "epoch of all files: 1 → 2",
        "configuration hook 10-users.sh: 222222222222 → 888888888888",
    )
    assert lock_diff(old, changed).summary() == (
        "packages changed (4)",
        "tool tar: 1.34 → 1.35",
        "hook 10-users.sh changed",
    )
    assert lock_diff(old, old).empty


def test_a_lock_names_the_tools_it_is_built_with_and_their_tree() -> None:
    found = versions_of(ToolsTree(tree=ref("5"), lock=ref("6")), lock(1, package("tar", "1.35"), package("libc6")))
    assert found == {"tar": "1.35", "tree": "5" * 64, "tree's lock": "6" * 64}
