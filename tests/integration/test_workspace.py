"""Folders of killed owners, with processes that are really killed."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from coreimage import workspace as workspaces
from coreimage.process import run, spawn
from coreimage.workspace import workspace
from tests.harness.tiny import ROOT_DIR

_OWNER = """
import sys, threading
from pathlib import Path
from coreimage.workspace import workspace
with workspace("test", parent=Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    threading.Event().wait()
"""


def test_a_killed_owner_s_folder_goes_with_the_next(tmp_path: Path) -> None:
    with spawn([sys.executable, "-c", _OWNER, str(tmp_path)], env={"PYTHONPATH": str(ROOT_DIR)}) as child:
        left = Path(next(child.lines()))
        (left / "half").write_text("an image")
        with workspace("test", parent=tmp_path):
            assert left.is_dir(), "its owner lives"
        os.kill(child.pid, signal.SIGKILL)
        child.wait(30)
    assert workspaces.sweep(tmp_path, dry_run=True) == (left,)
    assert left.is_dir()
    with workspace("another", parent=tmp_path) as ours:
        assert list(tmp_path.iterdir()) == [ours]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_made_this_moment_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a folder and locking it, its owner looks dead."""
    fresh = Path(tempfile.mkdtemp(prefix=".coreimage-new-", dir=tmp_path))
    with workspace("test", parent=tmp_path, run=run):
        assert fresh.is_dir()
    monkeypatch.setattr(workspaces, "_NEW_S", -1.0)
    with workspace("test", parent=tmp_path, run=run):
        assert not fresh.exists(), "its owner died in between, long ago"


def test_a_thread_that_still_leaves_a_file_does_not_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a download does that was cancelled a moment ago: between emptying a folder and removing it."""
    late, rmdir = iter(["late"]), os.rmdir

    def removed(path: str, **options: int) -> None:
        for name in late:
            (folder / name).write_text("left")
        rmdir(path, **options)

    with workspace("test", parent=tmp_path) as folder:
        monkeypatch.setattr(os, "rmdir", removed)
    assert list(late) == []
    assert list(tmp_path.iterdir()) == []
