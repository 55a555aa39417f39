"""The tools tree: the same whoever makes it, and in place of the machine's programs wherever it is used."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coreimage.errors import HostError, NotFoundError
from coreimage.host.process import run, spawn
from coreimage.host.sandbox import Sandbox
from coreimage.model import RootfsBuild, ToolsTree
from coreimage.rootfs import unpacked_tools as unpacked
from coreimage.rootfs.unpacked_tools import hold, remove_tree, tidy_trees, unpacked_tools
from coreimage.storage import open_store
from tests.harness.archive import TestKey
from tests.harness.ordinary_user import as_ordinary_user
from tests.harness.tiny import ROOT_DIR, build_tiny, tiny_archive, tiny_project
from tests.harness.tools import SharedTools, made_tools

pytestmark = pytest.mark.timeout(900)

VERSION = "tar (GNU tar) 1.35"
"""Of Debian 13's."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where ordinary users may go, and short enough for gpg-agent's socket."""
    made = Path(tempfile.mkdtemp(prefix="tools-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_a_machine_with_other_programs_makes_the_same_tree(tools: SharedTools, tmp_path: Path) -> None:
    """Planned, unpacked and packed by Debian 13's apt, dpkg and tar here, by the machine's own there."""
    store = open_store(tmp_path.as_uri())
    assert made_tools(tools.folder / "tools.yaml", store, by=tools.run) == tools.local


@pytest.mark.parametrize("sandbox", list(Sandbox))
def test_its_programs_run_in_place_of_the_machine_s(tools: SharedTools, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "work").write_text("mine\n")
    script = "cat work; tar --version | head -1; touch /usr/x /etc/x || true; cat /proc/self/comm"
    said = tools.run(["sh", "-c", script], sandbox=sandbox, cwd=tmp_path).output.splitlines()
    assert said[:2] == ["mine", VERSION]
    assert [line.rpartition(": ")[2] for line in said[2:4]] == ["Read-only file system"] * 2
    assert said[4] == "cat", "it sees its own /proc"
    with pytest.raises(HostError, match="gpg is not in the tools tree"):
        tools.run(["gpg"], sandbox=sandbox)


BUILD = """
import sys
from pathlib import Path
from coreimage.host.process import run_in
from coreimage.host.sandbox import Sandbox
from tests.harness.tiny import build_tiny
tree, project, store = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for sandbox in Sandbox:
    print(run_in(tree)(["sh", "-c", "tar --version | head -1; touch made"], sandbox=sandbox).output)
print(build_tiny(project, store, run_in(tree)).model_dump_json())
"""


def test_an_ordinary_user_makes_the_same_rootfs_with_them(tools: SharedTools, folder: Path) -> None:
    key, home = TestKey.make(folder / "key", "tiny"), folder / "home"
    home.mkdir()
    project = tiny_project(folder, tiny_archive(folder / "archive", key))
    key.close()
    ours = build_tiny(project, (folder / "store").as_uri(), tools.run)
    tree = unpacked_tools(tools.tools, store=tools.store, folder=folder / "cache")
    argv = as_ordinary_user([sys.executable, "-c", BUILD, str(tree), str(project), (home / "store").as_uri()], home)
    said = run(argv, cwd=home, env={"PYTHONPATH": str(ROOT_DIR)}).output
    assert said.count(VERSION) == len(Sandbox)
    assert (home / "made").stat().st_uid == home.stat().st_uid
    assert RootfsBuild.model_validate_json(said.splitlines()[-1]).rootfs == ours.rootfs


def test_a_damaged_tree_is_unpacked_again(tools: SharedTools, tmp_path: Path) -> None:
    place = unpacked_tools(tools.tools, store=tools.store, folder=tmp_path)
    (place / "usr/bin/tar").write_text("#!/bin/sh\necho not me\n")
    _forget(place)
    assert unpacked_tools(tools.tools, store=tools.store, folder=tmp_path) == place
    assert (place / "usr/bin/tar").read_bytes().startswith(b"\x7fELF")
    assert sorted(path.name for path in tmp_path.iterdir()) == [place.name, f"{place.name}.lock", "making.lock"]


@pytest.mark.parametrize("change", ["content", "mode", "link", "more"])
def test_a_tree_that_only_its_content_gives_away_is_unpacked_again(
    tools: SharedTools, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an attacker can do who puts sizes and times back."""
    place = unpacked_tools(tools.tools, store=tools.store, folder=tmp_path)
    program, link = place / "usr/bin/xz", place / "usr/bin/unxz"
    before, right, target = program.stat(), program.read_bytes(), link.readlink()
    if change == "content":
        program.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    elif change == "mode":
        program.chmod(0o4755)
    elif change == "link":
        link.unlink()
        link.symlink_to(f"{target}dec")
    else:
        (place / "usr/bin/more-than-there-was").write_bytes(b"")
    os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert program.stat().st_size == before.st_size
    _forget(place)
    assert unpacked_tools(tools.tools, store=tools.store, folder=tmp_path) == place
    assert (program.read_bytes(), program.stat().st_mode, link.readlink()) == (right, before.st_mode, target)
    assert not (place / "usr/bin/more-than-there-was").exists()
    assert "the tools had been changed or damaged" in "".join(capsys.readouterr())


def test_a_tree_in_use_stays(tools: SharedTools, tmp_path: Path) -> None:
    place = unpacked_tools(tools.tools, store=tools.store, folder=tmp_path)
    assert not remove_tree(place)
    _forget(place)
    assert remove_tree(place)
    assert not place.exists()


def test_a_killed_unpacking_leaves_no_tree_and_the_next_one_works(tools: SharedTools, tmp_path: Path) -> None:
    place = tmp_path / tools.tools.tree.sha256
    script = (
        "import os, signal, sys; from pathlib import Path; from coreimage.rootfs import unpacked_tools as unpacked;"
        "from coreimage.model import ToolsTree; from coreimage.storage import open_store;"
        "unpacked._digest = lambda place: os.kill(os.getpid(), signal.SIGKILL);"
        "tools = ToolsTree.model_validate_json(sys.argv[1]);"
        "unpacked.unpacked_tools(tools, store=open_store(sys.argv[2]), folder=Path(sys.argv[3]))"
    )
    argv = [sys.executable, "-c", script, tools.tools.model_dump_json(), tools.store.url, str(tmp_path)]
    with spawn(argv, env={"PYTHONPATH": str(ROOT_DIR)}) as child:
        assert child.wait(120) == -signal.SIGKILL
    assert not place.exists()
    assert unpacked_tools(tools.tools, store=tools.store, folder=tmp_path) == place


def test_a_tree_that_the_store_lost_is_named(tools: SharedTools, tmp_path: Path) -> None:
    lost = ToolsTree(tree=tools.tools.tree, lock=tools.tools.lock)
    with pytest.raises(NotFoundError, match=lost.tree.sha256):
        unpacked_tools(lost, store=open_store((tmp_path / "store").as_uri()), folder=tmp_path / "cache")


def _forget(place: Path) -> None:
    """As when the process that used it has ended."""
    os.close(unpacked._held.pop(place))
    os.close(hold(place, alone=True))


def test_trees_stay_within_a_size_and_those_in_use_stay(tools: SharedTools, tmp_path: Path) -> None:
    used = unpacked_tools(tools.tools, store=tools.store, folder=tmp_path)
    for number, name in enumerate("ab"):
        other = tmp_path / (name * 64)
        (other / "usr").mkdir(parents=True)
        (other / "usr/program").write_bytes(bytes(1 << 20))
        os.close(hold(other))
        os.utime(f"{other}.lock", (number, number))
    size_bytes = {tree.key: tree.size_bytes for tree in tidy_trees(tmp_path, budget_bytes=0, dry_run=True)}
    assert sorted(size_bytes) == ["a" * 64, "b" * 64], "what is used stays, however small the size"
    assert not tidy_trees(tmp_path, budget_bytes=10**10)
    whole = sum(size_bytes.values()) + _blocks(used)
    assert [tree.key for tree in tidy_trees(tmp_path, budget_bytes=whole - 1)] == ["a" * 64], "the longest unused"
    assert not (tmp_path / ("a" * 64)).exists()
    assert (tmp_path / ("b" * 64) / "usr/program").exists()
    assert (used / "usr/bin/tar").exists()


def _blocks(place: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in place.rglob("*") if path.name != "contents")


def test_whoever_unpacks_a_tree_makes_room_for_it(
    tools: SharedTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COREIMAGE_TOOLS_BUDGET", "10M")
    (tmp_path / ("a" * 64)).mkdir()
    (tmp_path / ("a" * 64) / "program").write_bytes(bytes(1 << 20))
    place = unpacked_tools(tools.tools, store=tools.store, folder=tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [place]
