"""Where work is done: a temporary folder that goes away again, also when its owner was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coreimage.process import Run, Sandbox
from coreimage.process import run as run_process

_PREFIX, _NEW_PREFIX = ".coreimage-work-", ".coreimage-new-"
"""A folder has its own name only once it is locked: one that is not locked then has a dead owner."""
_NEW_S = 60.0
"""Younger new folders are left alone: their owner may be about to lock them."""
_REMOVALS = 1000
"""So often a folder is emptied anew in which somebody still makes files."""


@contextmanager
def workspace(purpose: str, *, parent: Path | None = None, run: Run = run_process) -> Iterator[Path]:
    """A folder below `parent` (TMPDIR), locked while in use; those that dead owners left there are removed first.

    `purpose` is a word in its name, for people who look. Raises OSError when `parent` cannot be written to.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent, run=run)
    folder = Path(tempfile.mkdtemp(prefix=f"{_NEW_PREFIX}{purpose}-", dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = folder.rename(parent / folder.name.replace(_NEW_PREFIX, _PREFIX, 1))
        yield folder
    finally:
        _remove(folder, run)
        os.close(lock)


def sweep(parent: Path | None = None, *, run: Run = run_process, dry_run: bool = False) -> tuple[Path, ...]:
    """Removes the folders that dead owners left below `parent` (TMPDIR); gives which."""
    found, parent = [], parent or Path(tempfile.gettempdir())
    for folder in (*parent.glob(f"{_PREFIX}*"), *parent.glob(f"{_NEW_PREFIX}*")):
        with suppress(OSError):
            seen = folder.lstat()
            new = folder.name.startswith(_NEW_PREFIX) and time.time() - seen.st_ctime < _NEW_S
            if seen.st_uid == os.geteuid() and not new and _abandoned(folder):
                found.append(folder)
                if not dry_run:
                    _remove(folder, run)
    return tuple(found)


def _abandoned(folder: Path) -> bool:
    """The kernel gave up the lock when the owner died."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


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
