"""Folders of killed owners, with processes that are really killed."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from coreimage.host import workspace as workspaces
from coreimage.host.process import spawn
from coreimage.host.workspace import workspace
from tests.harness.tiny import ROOT_DIR

_OWNER = """
import sys, threading
from pathlib import Path
from coreimage.host.workspace import workspace
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


def test_a_folder_that_is_swept_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making a folder and locking it, its owner looks dead: whatever the clocks of the two say."""
    swept, make, lock = list[Path](), tempfile.mkdtemp, fcntl.flock

    def made(**options: Any) -> str:
        folder: str = make(**options)
        swept.extend(workspaces.sweep(tmp_path) if not swept else ())
        return folder

    def locked(handle: int, how: int) -> None:
        if how == fcntl.LOCK_EX and len(swept) == 1:
            swept.extend(workspaces.sweep(tmp_path))
        lock(handle, how)

    monkeypatch.setattr(tempfile, "mkdtemp", made)
    monkeypatch.setattr(fcntl, "flock", locked)
    with workspace("test", parent=tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert len(swept) == 2, "once before it was opened, once before it was locked"
        assert workspaces.sweep(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


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
