from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coreimage.model import ArtifactRef, LockedPackage, PackageLock, ToolsTree
from coreimage.rootfs import ArchiveSpec, HookSpec, RootfsSpec, store_lock
from coreimage.storage import Store, open_store
from tasks.cache.reasons import Inputs, changes, inputs_of, recall, remember, why


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


def lock(
    store: Store, version: str = "1", tar: str = "1.34", packages: str = "a", configuration: str = "0"
) -> ArtifactRef:
    locked = [
        LockedPackage(
            name=name, version=version, architecture="all", sha256="1" * 64, size_bytes=1, filename="f", archive="u s"
        )
        for name in packages
    ]
    return store_lock(
        store,
        PackageLock(
            architecture="amd64",
            epoch=1,
            packages=tuple(locked),
            releases=(),
            tools={"tar": tar},
            configuration={"overlay": configuration * 64},
        ),
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
    second = HookSpec(name="hooks/20-late.sh", script=ref("9"))
    assert told(SPEC.model_copy(update={"hooks": (*SPEC.hooks, second)})) == ("hook hooks/20-late.sh is new",)
    assert told(SPEC.model_copy(update={"overlay": ref("3")})) == ("overlay changed",)
    assert told(SPEC.model_copy(update={"hostname": "other"})) == ("host name changed",)
    assert told(configuration="1") == ("its last run did not finish, or its result was removed",), "its own inputs tell"
    assert told(SPEC.model_copy(update={"packages": ("a", "b")})) == ("packages changed",)
    assert told(version="2") == ("packages changed (1)",)
    assert told(tar="1.35") == ("tool tar: 1.34 → 1.35",)
    assert told(code={**CODE, "coreimage.rootfs.chroot": "3"}) == ("code changed: coreimage.rootfs.chroot",)
    both = told(SPEC.model_copy(update={"hooks": hooks}), version="2")
    assert both == ("packages changed (1)", "hook hooks/10-users.sh changed")


def test_changed_code_is_named_up_to_three_modules() -> None:
    def told(*modules: str) -> tuple[str, ...]:
        return changes(inputs_of("t", "c", {}, {}), inputs_of("t", "c", dict.fromkeys(modules, "1"), {}))

    assert told("") == ("code changed: its own module",)
    assert told("a", "b", "c") == ("code changed: a, b, c",)
    assert told("a", "b", "c", "d", "e") == ("code changed: a, b, c and 2 more",)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"releases": [{"suite": "trixie", "n": 1}]}, {"releases": [{"suite": "trixie", "n": 2}]}, "archive trixie"),
        ({"releases": [1]}, {"releases": [2]}, "archive 0"),
        ({"releases": "1"}, {"releases": "2"}, "archive"),
        ({"boot_test": [{"name": "a", "n": 1}]}, {"boot_test": [{"name": "a", "n": 2}]}, "boot test"),
        ({"hooks": "1"}, {"hooks": "2"}, "hooks"),
        ({"published": 1}, {"published": 2}, "the build"),
    ],
)
def test_values_are_called_by_their_words(before: dict[str, Any], now: dict[str, Any], words: str) -> None:
    assert changes(inputs_of("t", "c", {}, before), inputs_of("t", "c", {}, now)) == (f"{words} changed",)


def test_a_lock_and_a_tools_tree_are_named_where_nothing_is_known_of_what_they_were() -> None:
    def at(**arguments: object) -> Inputs:
        return inputs_of("t", "c", {}, arguments)

    assert changes(at(), at(lock=ref("1"))) == ("lock changed",)
    assert changes(at(lock=ref("1")), at(lock=ref("2"))) == ()
    trees = [ToolsTree(tree=ref(tree), lock=ref(lock)) for tree, lock in ("12", "32", "34")]
    assert changes(at(tools=trees[0]), at(tools=trees[1])) == ("tools tree changed",)
    assert changes(at(tools=trees[1]), at(tools=trees[2])) == ()


def test_the_tools_of_the_machine_are_not_told_where_a_tools_tree_is(store: Store) -> None:
    tree = ToolsTree(tree=ref("1"), lock=lock(store))

    def at(tar: str) -> Inputs:
        return inputs_of("build-rootfs", "core", CODE, {"lock": lock(store, tar=tar), "tools": tree})

    remember(at("1.34"), store)
    assert why(at("1.35"), store=store) == ("its last run did not finish, or its result was removed",)


@pytest.mark.parametrize(("packages", "more"), [("abc", ()), ("abcde", ("2 more tools",))])
def test_three_changed_tools_are_named_and_the_others_counted(
    store: Store, packages: str, more: tuple[str, ...]
) -> None:
    def at(version: str) -> Inputs:
        tree = ToolsTree(tree=ref(version), lock=lock(store, version=version, packages=packages))
        return inputs_of("build-rootfs", "core/13/edge", CODE, {"spec": SPEC, "lock": ref("7"), "tools": tree})

    remember(at("1"), store)
    assert why(at("2"), store=store) == (*(f"tool {name} upgraded: 1 → 2" for name in "abc"), *more)


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


@pytest.mark.parametrize(
    ("subject", "name"), [("Core/13", "Core-13"), ("../x", "x"), ("-a.-", "a"), ("XaX", "XaX"), ("//", "any")]
)
def test_every_subject_has_a_name_in_the_store(store: Store, subject: str, name: str) -> None:
    remember(inputs_of("t", subject, {}, {}), store)
    assert [info.key for info in store.list("inputs/")] == [f"inputs/t/{name}.json"]


def test_an_unreadable_record_is_no_record(store: Store) -> None:
    remember(inputs(store), store)
    (key,) = [info.key for info in store.list("inputs/")]
    assert key == "inputs/build-rootfs/core-13-edge-amd64.json"
    store.put_bytes(key, b"{", media_type="x")
    assert recall(inputs(store), store) is None
