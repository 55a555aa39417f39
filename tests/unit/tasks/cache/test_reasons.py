from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.model import ArtifactRef, LockedPackage, PackageLock, ToolsTree
from coreimage.rootfs import ArchiveSpec, HookSpec, RootfsSpec, store_lock
from coreimage.storage import Store, open_store
from tasks.cache.reasons import Inputs, inputs_of, recall, remember, why


def ref(digit: str, uri: str = "x") -> ArtifactRef:
    return ArtifactRef(uri=uri, sha256=digit * 64, size_bytes=0, media_type="x")


SPEC = RootfsSpec(
    architecture="amd64",
    hostname="core",
    archives=(ArchiveSpec(uri="http://a.test", suites=("s",), components=("main",), key=ref("0")),),
    packages=("a",),
    system_files=ref("1"),
    hooks=(HookSpec(name="hooks/10-users.sh", script=ref("2")),),
)
CODE = {"": "1", "coreimage.rootfs.chroot": "2"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path.as_uri())


def lock(store: Store, version: str = "1", tar: str = "1.34") -> ArtifactRef:
    package = LockedPackage(
        name="a", version=version, architecture="all", sha256="1" * 64, size_bytes=1, filename="f", archive="u s"
    )
    return store_lock(
        store, PackageLock(architecture="amd64", epoch=1, packages=(package,), releases=(), tools={"tar": tar})
    )


def inputs(store: Store, spec: RootfsSpec = SPEC, code: dict[str, str] | None = None, **of_lock: str) -> Inputs:
    return inputs_of("build-rootfs", "core/13/edge", code or CODE, {"spec": spec, "lock": lock(store, **of_lock)})


def test_a_step_that_never_ran_says_so(store: Store) -> None:
    assert why(inputs(store), store=store) == ("no earlier run is recorded",)


def test_each_change_is_named(store: Store) -> None:
    remember(inputs(store), store)

    def told(spec: RootfsSpec = SPEC, code: dict[str, str] | None = None, **of_lock: str) -> tuple[str, ...]:
        return why(inputs(store, spec, code, **of_lock), store=store)

    hooks = (HookSpec(name="hooks/10-users.sh", script=ref("9")),)
    assert told(SPEC.model_copy(update={"hooks": hooks})) == ("hook hooks/10-users.sh changed",)
    assert told(SPEC.model_copy(update={"hooks": ()})) == ("hook hooks/10-users.sh is gone",)
    assert told(SPEC.model_copy(update={"overlay": ref("3")})) == ("overlay changed",)
    assert told(SPEC.model_copy(update={"packages": ("a", "b")})) == ("packages changed",)
    assert told(version="2") == ("packages changed (1)",)
    assert told(tar="1.35") == ("tool tar: 1.34 → 1.35",)
    assert told(code={**CODE, "coreimage.rootfs.chroot": "3"}) == ("code changed: coreimage.rootfs.chroot",)
    both = told(SPEC.model_copy(update={"hooks": hooks}), version="2")
    assert both == ("packages changed (1)", "hook hooks/10-users.sh changed")


def test_a_changed_tool_is_named_by_its_package(store: Store) -> None:
    def at(version: str) -> Inputs:
        tree = ToolsTree(tree=ref(version), lock=lock(store, version=version))
        return inputs_of("build-rootfs", "core/13/edge", CODE, {"spec": SPEC, "lock": ref("7"), "tools": tree})

    remember(at("1"), store)
    assert why(at("2"), store=store) == ("tool a upgraded: 1 → 2",)
    assert at("2").key != at("1").key
    store.delete([lock(store, version="1").uri])
    assert why(at("2"), store=store) == ("tools lock changed",)


def test_the_key_changes_with_every_named_change_and_with_nothing_else(store: Store) -> None:
    same = inputs(store)
    moved = SPEC.model_copy(update={"system_files": ref("1", uri="elsewhere")})
    assert inputs(store, moved).key == same.key
    assert inputs(store, code={**CODE, "": "5"}).key != same.key
    assert inputs(store, version="2").key != same.key


def test_nothing_changed_and_yet_no_result(store: Store) -> None:
    remember(inputs(store), store)
    assert why(inputs(store), store=store) == ("its last run did not finish, or its result was removed",)
    assert why(inputs(store), "blobs/x", store=store) == ("blobs/x is gone from the store",)


def test_a_lost_lock_still_counts_as_a_change(store: Store) -> None:
    remember(inputs(store), store)
    store.delete([lock(store).uri])
    now = inputs(store, version="2")
    store.delete([lock(store).uri])
    assert why(now, store=store) == ("lock changed",)


def test_subjects_are_apart(store: Store) -> None:
    remember(inputs(store), store)
    other = inputs_of("build-rootfs", "core/13/stable", CODE, {"spec": SPEC, "lock": lock(store)})
    assert recall(other, store) is None
    assert (other.subject, other.key) == ("core/13/stable-amd64", inputs(store).key)
    fitting = inputs_of("boot-test", "c", CODE, {"image": SPEC, "firmware": "uefi"})
    assert fitting.subject == "c-amd64-uefi"


def test_an_unreadable_record_is_no_record(store: Store) -> None:
    remember(inputs(store), store)
    (key,) = [info.key for info in store.list("inputs/")]
    assert key == "inputs/build-rootfs/core-13-edge-amd64.json"
    store.put_bytes(key, b"{", media_type="x")
    assert recall(inputs(store), store) is None
