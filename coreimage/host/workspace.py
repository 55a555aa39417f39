"""Work folders: temporary folders that are removed again, also when their owner was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.host.sandbox import Sandbox

_PREFIX = ".coreimage-work-"
_MAX_REMOVALS = 1000
"""How often a folder is emptied in which a cancelled thread still makes files."""


@contextmanager
def workspace(purpose: str, *, parent: Path | None = None, run: Run = run_process) -> Iterator[Path]:
    """Make a work folder for the block, and remove it afterwards, with whatever is in it.

    The folder is locked for as long as it is in use. Folders that dead owners left in `parent` are removed first.

    Args:
        purpose: A word in the folder's name, for people who look.
        parent: Where the folder is made; TMPDIR by default.

    Raises:
        OSError: `parent` cannot be written to.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent, run=run)
    folder, lock = _make_locked_folder(purpose, parent)
    try:
        yield folder
    finally:
        _remove(folder, run)
        os.close(lock)


def sweep(parent: Path | None = None, *, run: Run = run_process, dry_run: bool = False) -> tuple[Path, ...]:
    """Remove the work folders that dead owners left in `parent` (TMPDIR by default), and return them.

    Args:
        dry_run: Only return them.
    """
    abandoned = []
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        with suppress(OSError), _lock_if_abandoned(folder) as stat:
            if stat.st_uid == os.geteuid():
                abandoned.append(folder)
                if not dry_run:
                    _remove(folder, run)
    return tuple(abandoned)


def _make_locked_folder(purpose: str, parent: Path) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=parent))
        # Somebody's sweep may remove the folder before it is locked: then another one is made.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, lock
            os.close(lock)


@contextmanager
def _lock_if_abandoned(folder: Path) -> Iterator[os.stat_result]:
    """Lock the folder, whose owner's lock the kernel gave up when the owner died. Raises BlockingIOError if it lives.

    The lock is held for the whole block, so that an owner who has just made the folder and waits sees it gone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(handle)
    finally:
        os.close(handle)


def _remove(folder: Path, run: Run) -> None:
    """Remove the folder, even when a killed sandbox left files of other ids, or a thread still makes files in it."""
    for _ in range(_MAX_REMOVALS):
        try:
            shutil.rmtree(folder)
        except PermissionError:
            run(["rm", "-rf", folder], sandbox=Sandbox.ROOT)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            continue
        return
    shutil.rmtree(folder)
