"""The delta form of 2015, applied by GNU tar after deleting what `removed` lists, as the appliers of 2015 do."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, event, given, settings

from coreimage.client import RepositoryError
from coreimage.client.layers import LayeredTree
from coreimage.deltas.legacy import Layer, NotExpressibleError, plan, whole_last, write
from tests.harness.examples import examples
from tests.harness.random_trees import ACL_BYTES, DEFAULT_ACL, NOTE, Layers, Member, look, pairs, tarball, unpack

FILE, FOLDER, SOFT, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def delta(base: Sequence[bytes], target: Sequence[bytes]) -> list[bytes]:
    with ExitStack() as opened:
        old, new = (
            LayeredTree([opened.enter_context(tarfile.open(fileobj=io.BytesIO(tar))) for tar in tars])
            for tars in (base, target)
        )
        plans = plan(old, new, len(target))
        whole = whole_last(plans, old, new)
        return [written(layer, new) for layer in whole or plans if layer.removed] + list(target[-1:] if whole else ())


def written(layer: object, tree: LayeredTree) -> bytes:
    plain = io.BytesIO()
    write(layer, tree, plain)  # type: ignore[arg-type]
    return plain.getvalue()


def removed(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        first = opened.next()
        assert first is not None
        if first.name != "removed":
            return []
        return opened.extractfile(first).read().decode().splitlines()  # type: ignore[union-attr]


def files(tar: bytes) -> list[str]:
    """What it brings, folders aside: those are named again where something in them changes."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return [member.name for member in opened.getmembers()[1:] if not member.isdir()]


def apply(tars: Sequence[bytes], folder: Path) -> None:
    for tar in tars:
        for line in removed(tar):
            path = folder / line
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif os.path.lexists(path):
                path.unlink()
        unpack(tar, folder)


def same(base: Sequence[bytes], target: Sequence[bytes]) -> list[bytes]:
    """The delta, which has been applied to `base` and has made `target` of it."""
    made = delta(base, target)
    with tempfile.TemporaryDirectory() as work:
        old, new = Path(work) / "old", Path(work) / "new"
        for tars, folder in ((base, old), (target, new)):
            for tar in tars:
                unpack(tar, folder)
        apply(made, old)
        assert look(old) == look(new)
    return made


def tree(*members: tuple[str, bytes, bytes | str] | tuple[str, bytes, bytes | str, int], mode: int = 0o644) -> bytes:
    """Folders that no member names are added."""
    made: list[Member] = []
    named = {member[0] for member in members}
    parents = {str(parent) for name in named for parent in PurePosixPath(name).parents} - {".", "/"}
    parents |= {member[0] for member in members if member[1] == FOLDER}
    folders = [(name, FOLDER, b"") for name in sorted(parents) if ".." not in name]
    for name, kind, value, *time in [*folders, *(m for m in members if m[1] != FOLDER)]:
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.mtime = kind, 0o755 if kind == FOLDER else mode, time[0] if time else 1000
        content = value if isinstance(value, bytes) else b""
        member.size = len(content)
        member.linkname = value if isinstance(value, str) else ""
        member.uid, member.gid = os.geteuid(), os.getegid()
        made.append((member, content))
    return tarball(made)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(pairs())
def test_applied_to_the_base_it_makes_the_target(pair: tuple[Layers, Layers]) -> None:
    old, new = ([tarball(members) for members in layers] for layers in pair)
    try:
        assert same(old, new) == delta(old, new)
    except NotExpressibleError:
        event("not expressible")


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(pairs())
def test_the_last_tarball_may_be_taken_whole(pair: tuple[Layers, Layers]) -> None:
    old, new = ([tarball(members) for members in layers] for layers in pair)
    with patch.multiple("coreimage.deltas.legacy", _WHOLE_FROM=0.0, _WHOLE_LEAST_BYTES=1):
        try:
            made = same(old, new)
            event("whole" if made[-1:] == new[-1:] else "in part")
        except NotExpressibleError:
            event("not expressible")


def test_a_tarball_that_changed_nearly_whole_is_not_packed_again() -> None:
    rootfs, kernel = tree(("system/a", FILE, b"kept")), ("system/modules/1/x.ko", FILE, bytes(1 << 20))
    old, new = tree(kernel), tree(("system/modules/2/x.ko", FILE, b"x" * (1 << 20)))
    made = same([rootfs, old], [rootfs, new])
    assert made[-1] == new
    assert [removed(tar) for tar in made] == [["system/modules/1"], []]


@pytest.mark.parametrize(("folder", "taken"), [("system/log", True), ("system/modules", False)])
def test_only_what_would_inherit_an_acl_is_not_taken_whole(folder: str, taken: bool) -> None:
    """The journal's folder has one in every image; its own content is in none."""
    handing_down, module = tarfile.TarInfo(folder), ("system/modules/new.ko", FILE, b"x" * (1 << 20))
    handing_down.type, handing_down.mode, handing_down.uid, handing_down.gid = FOLDER, 0o755, os.geteuid(), os.getegid()
    handing_down.pax_headers = {DEFAULT_ACL: ACL_BYTES.decode("utf-8", "surrogateescape")}
    rootfs = tarball([(handing_down, b"")])
    with ExitStack() as opened:
        old, new = (
            LayeredTree([opened.enter_context(tarfile.open(fileobj=io.BytesIO(tar))) for tar in tars])
            for tars in ([rootfs, tree()], [rootfs, tree(module)])
        )
        last = Layer((b"system/.nothing",), (module[0].encode(),))
        assert (whole_last([Layer((), ()), last], old, new) is not None) == taken


def test_a_folder_whose_attributes_another_tarball_gave_is_not_taken_whole() -> None:
    """The last tarball of a full install lays its folder over that of the first; a delta has only the base's there."""

    def folder(note: bytes = b"") -> Member:
        member = tarfile.TarInfo("system")
        member.type, member.mode, member.uid, member.gid = FOLDER, 0o755, os.geteuid(), os.getegid()
        member.pax_headers = {NOTE: note.decode()} if note else {}
        return member, b""

    def file(name: str, content: bytes = b"") -> Member:
        member = tarfile.TarInfo(name)
        member.size, member.uid, member.gid = len(content), os.geteuid(), os.getegid()
        return member, content

    base = [tarball([folder(), file("system/a")]), tarball([folder(), file("system/b")])]
    first = tarball([folder(b"note"), file("system/a"), file("system/b")])
    target = [first, tarball([folder(), file("system/a", b"\0")])]
    with patch.multiple("coreimage.deltas.legacy", _WHOLE_FROM=0.0, _WHOLE_LEAST_BYTES=1):
        assert same(base, target)[-1:] != target[-1:]
        last = tarball([folder(), file("system/a", b"1")])
        assert same(target, [first, last])[-1] == last, "the base has the attribute already"


def test_same_size_and_time_but_other_content() -> None:
    assert files(same([tree(("system/a", FILE, b"one"))], [tree(("system/a", FILE, b"two"))])[0]) == ["system/a"]


def test_retargeted_symbolic_link() -> None:
    made = same([tree(("system/a", SOFT, "b"))], [tree(("system/a", SOFT, "c"))])
    assert (removed(made[0]), files(made[0])) == (["system/a"], ["system/a"])


def test_unchanged_things_stay_out() -> None:
    same_things = [("system/a", FILE, b"a"), ("system/b", HARD, "system/a"), ("system/l", SOFT, "a")]
    made = same([tree(*same_things)], [tree(*same_things, ("system/new", FILE, b"new"))])  # type: ignore[arg-type]
    assert files(made[0]) == ["system/new"]


@pytest.mark.parametrize("order", [1, -1])
def test_path_moves_between_the_tarballs(order: int) -> None:
    """From the device tarball to the rootfs, the original deletes it."""
    folder = ("system", FOLDER, b"")
    having = tree(folder, ("system/f/x", FILE, b"x"), ("system/f/y", FILE, b"y"))
    lacking = tree(folder, ("system/z", FILE, b"z"))
    changed = tree(folder, ("system/f/x", FILE, b"X"), ("system/f/y", FILE, b"y"))
    same([having, lacking][::order], [lacking, changed][::order])
    assert same([lacking, having][::order], [having, lacking][::order]) == []


def test_component_that_disappears() -> None:
    made = same([tree(("system/a", FILE, b"a")), tree(("assets/k", FILE, b"k"))], [tree(("system/a", FILE, b"a"))])
    assert removed(made[0]) == ["assets"]


def test_folder_becomes_file_and_back() -> None:
    folder = tree(("system/a", FOLDER, b""), ("system/a/b", FOLDER, b""), ("system/a/b/c", FILE, b"c"))
    file = tree(("system/a", FILE, b"a"))
    assert removed(same([folder], [file])[0]) == ["system/a"]
    same([file], [folder])
    same([tree(("system/a", SOFT, "b"))], [folder])


def test_links_become_files_and_files_links() -> None:
    linked = tree(("system/a", FILE, b"a"), ("system/b", HARD, "system/a"))
    apart = tree(("system/a", FILE, b"a"), ("system/b", FILE, b"a"))
    same([linked], [apart])
    same([apart], [linked])
    same([linked], [tree(("system/b", FILE, b"a"), ("system/a", HARD, "system/b"))])
    same([linked], [tree(("system/a", FILE, b"a"), ("system/b", HARD, "system/a"), mode=0o600)])


def test_link_outside_of_system() -> None:
    same([tree(("assets/a", FILE, b"1"))], [tree(("assets/a", FILE, b"2"), ("assets/b", HARD, "assets/a"))])


def test_link_to_a_file_of_an_earlier_tarball() -> None:
    rootfs = tree(("system/a", FILE, b"x" * 3000))
    device = tree(("system/b", HARD, "system/a"))
    assert files(same([tree(), tree()], [rootfs, device])[0]) == ["system/a", "system/b"]


def test_nothing_to_remove_is_not_an_empty_list() -> None:
    made = same([tree(("system/a", FILE, b"a"))], [tree(("system/a", FILE, b"a"), ("system/b", FILE, b"b"))])
    assert removed(made[0]) == ["system/.nothing"]


def test_no_change_makes_no_tarball() -> None:
    assert same([tree(("system/a", FILE, b"a"))], [tree(("system/a", FILE, b"a"))]) == []


def test_name_with_a_line_end_is_not_expressible() -> None:
    with pytest.raises(NotExpressibleError):
        delta([tree(("system/a\nsystem", FILE, b"a"))], [tree(("system/b", FILE, b"a"))])


def test_sparse_members_keep_their_content(tmp_path: Path) -> None:
    file = tmp_path / "system"
    with file.open("wb") as written_file:
        written_file.write(b"start")
        written_file.seek(1 << 20)
        written_file.write(b"end")
    import subprocess  # noqa: PLC0415

    sparse = subprocess.run(
        ["tar", "-C", str(tmp_path), "--sparse", "--format=gnu", "-cf", "-", "system"], capture_output=True, check=True
    ).stdout
    assert len(sparse) < 1 << 18
    made = same([tree(("system", FILE, b"old"))], [sparse])
    assert files(made[0]) == ["system"]


@pytest.mark.parametrize("name", ["/system/a", "system/../../a", "../a"])
def test_names_that_leave_the_tree_are_refused(name: str) -> None:
    with pytest.raises(RepositoryError):
        delta([], [tree((name, FILE, b"a"))])
