from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from coreimage.cli.app import run
from coreimage.cli.locks import locked_packages
from coreimage.model import ArchiveRelease, ArtifactRef, LockedPackage, PackageLock
from coreimage.rootfs import lock_pointer, move_lock_pointer, store_lock
from coreimage.storage import open_store

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
"""
CHANNEL = "tiny/1/edge"
REF = ArtifactRef(uri="blobs/x", sha256="0" * 64, size_bytes=0, media_type="x")


def lock(version: str, tar: str = "1.34") -> PackageLock:
    package = LockedPackage(
        name="base", version=version, architecture="all", sha256="1" * 64, size_bytes=7, filename="f", archive="u s"
    )
    release = ArchiveRelease(uri="u", suite="s", date="2026-01-01T00:00:00Z", release_sha256="2" * 64, release=REF)
    return PackageLock(architecture="amd64", epoch=1, packages=(package,), releases=(release,), tools={"tar": tar})


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(PROJECT)
    store = open_store((tmp_path / "store").as_uri())
    pointer = lock_pointer("tiny", "1", "core", "amd64")
    move_lock_pointer(pointer, store_lock(store, lock("1")), store)
    move_lock_pointer(pointer, store_lock(store, lock("2", "1.35")), store)
    return ["--store", store.url, "--project", str(tmp_path / "tiny.yaml")]


def test_a_table_names_archives_tools_and_packages() -> None:
    assert locked_packages("core/amd64", lock("1")).splitlines() == [
        "# core/amd64: 1 packages, epoch 1",
        "# archive u s: 2026-01-01T00:00:00Z",
        "# tools: tar 1.34",
        f"base  1  all  7  {'1' * 64}  u s",
    ]


def test_the_current_lock_is_shown(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--json", "lock", CHANNEL]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert PackageLock.model_validate(shown["core/amd64"]) == lock("2", "1.35")
    assert run([*command, "lock", "show", CHANNEL, "--device", "board"]) == 0
    assert "base  2" in capsys.readouterr().out


def test_locks_are_compared(command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run([*command, "lock", "diff", "previous", "current", "--channel", CHANNEL]) == 0
    wanted = ["core/amd64:", "  package base upgraded: 1 → 2", "  tool tar: 1.34 → 1.35"]
    assert capsys.readouterr().out.splitlines() == wanted
    (tmp_path / "old.json").write_text(lock("2", "1.35").model_dump_json())
    old = str(tmp_path / "old.json")
    assert run([*command, "lock", "diff", old, "current", "--channel", CHANNEL]) == 0
    assert capsys.readouterr().out.splitlines() == ["lock:", "  no difference"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["lock", "tiny/1/egde"], 1, "did you mean 'tiny/1/edge'"),
        (["lock", CHANNEL, "--device", "bord"], 1, "its devices: board"),
        (["lock", "diff", "currant", "current", "--channel", CHANNEL], 2, "names no lock"),
        (["lock", "diff", "current", "previous"], 2, "--channel"),
        (["lock", "diff", "20260101", "current", "--channel", CHANNEL], 1, "no build 20260101"),
    ],
)
def test_what_names_nothing_is_told(
    command: list[str], capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    assert run([*command, *words]) == status
    assert said in capsys.readouterr().err


def test_a_file_that_is_no_lock_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert run(["lock", "diff", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 3
    assert "not a package lock" in capsys.readouterr().err


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, coreimage.cli.commands.lock.show, coreimage.cli.commands.gc; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"prefect", "pydantic", "requests", "coreimage.rootfs"} & set(loaded)
