"""Where work is done: a temporary folder that goes away again, also when its owner was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coreimage.process import Run, Sandbox
from coreimage.process import run as run_process

_PREFIX = ".coreimage-work-"
_REMOVALS = 1000
"""So often a folder is emptied anew in which somebody still makes files."""


@contextmanager
def workspace(purpose: str, *, parent: Path | None = None, run: Run = run_process) -> Iterator[Path]:
    """A folder below `parent` (TMPDIR), locked while in use; those that dead owners left there are removed first.

    `purpose` is a word in its name, for people who look. Raises OSError when `parent` cannot be written to.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent, run=run)
    folder, lock = _made(purpose, parent)
    try:
        yield folder
    finally:
        _remove(folder, run)
        os.close(lock)


def _made(purpose: str, parent: Path) -> tuple[Path, int]:
    """A folder and the lock on it, made anew when a sweep took it away before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, lock
            os.close(lock)


def sweep(parent: Path | None = None, *, run: Run = run_process, dry_run: bool = False) -> tuple[Path, ...]:
    """Removes the folders that dead owners left below `parent` (TMPDIR); gives which."""
    found, parent = [], parent or Path(tempfile.gettempdir())
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), _abandoned(folder) as seen:
            if seen.st_uid == os.geteuid():
                found.append(folder)
                if not dry_run:
                    _remove(folder, run)
    return tuple(found)


@contextmanager
def _abandoned(folder: Path) -> Iterator[os.stat_result]:
    """Locks it: the kernel gave up the lock when the owner died. Raises BlockingIOError when the owner lives.

    The lock lasts as long as the block, so that an owner who has just made the folder and waits sees it gone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(handle)
    finally:
        os.close(handle)


def _remove(folder: Path, run: Run) -> None:
    """Also what a killed sandbox left that belongs to other ids, and what a thread still leaves that was cancelled."""
    for _ in range(_REMOVALS):
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
