"""What must survive a power cut: fsync of a file keeps its bytes, and only fsync of its folder keeps its name."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Raises OSError."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Wait until everything below a folder, and the names in it, are on the disk. Raises OSError."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            _sync(path)
    _sync(folder)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are missing, and wait until their names are on the disk. Raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _sync(each.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network filesystems have no fsync of folders: names are written through there.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)
