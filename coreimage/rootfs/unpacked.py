"""Tools trees on this machine: each unpacked once, for all processes, into a cache folder.

A user of a tree holds a shared lock on it as long as its process lives, so that no tidying takes it away.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from coreimage.model import ToolsTree
from coreimage.process import Run, run, run_in
from coreimage.storage import Store, fetch_blob
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.tools")

_CONTENTS = "contents"
"""Beside `usr` and `etc`: the digest of all names, modes, sizes and times."""
_held: dict[Path, int] = {}
_one_at_a_time = threading.Lock()


def cache_folder() -> Path:
    """$COREIMAGE_CACHE, else `coreimage` below $XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("COREIMAGE_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "coreimage"


def tools_run(tools: ToolsTree, *, store: Store) -> Run:
    """Runs the programs of the tree. Raises NotFoundError or VerificationError for a tree the store does not have."""
    return run_in(unpacked_tools(tools, store=store, folder=cache_folder() / "tools"))


def unpacked_tools(tools: ToolsTree, *, store: Store, folder: Path) -> Path:
    """The tree in `folder`, whole; from now on held by this process."""
    place = folder / tools.tree.sha256
    with _one_at_a_time:
        if place not in _held:
            with suppress(PermissionError):
                folder.mkdir(parents=True, exist_ok=True)
            _held[place] = hold(place)
            if not _whole(place):
                with _making(folder):
                    if not _whole(place):
                        _unpack(tools, place, store)
    return place


def hold(place: Path, *, alone: bool = False) -> int:
    """A lock on the tree, by its handle. Raises BlockingIOError when it is wanted `alone` and somebody holds it."""
    name = f"{place}.lock"
    try:
        handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        os.utime(name)
    except PermissionError:
        handle = os.open(name, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except BlockingIOError:
        os.close(handle)
        raise
    return handle


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    with (folder / "making.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpack(tools: ToolsTree, place: Path, store: Store) -> None:
    log.info("unpacking the tools", tree=tools.tree.sha256, folder=str(place))
    with workspace("tools", parent=place.parent) as folder:
        new = folder / "tree"
        new.mkdir(mode=0o755)
        packed = fetch_blob(store, tools.tree, folder / "tree.tar.gz")
        run(["tar", "--extract", "--gzip", "--file", packed, "--directory", new, "--no-same-owner", "-p"])
        (new / _CONTENTS).write_text(_digest(new))
        if place.exists():
            log.warning("the tools had been changed or damaged", folder=str(place))
            place.rename(folder / "damaged")
        new.rename(place)


def _whole(place: Path) -> bool:
    try:
        return (place / _CONTENTS).read_text() == _digest(place)
    except OSError:
        return False


def _digest(place: Path) -> str:
    """Of what a look at the folders tells: a file that was written to has another size or time."""
    digest = hashlib.sha256()
    for path in _paths(str(place)):
        found = os.lstat(path)
        facts: tuple[int, ...] = (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode))
        if stat.S_ISREG(found.st_mode):
            facts += (found.st_size, int(found.st_mtime))
        digest.update(f"{path.removeprefix(str(place))}\0{facts}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _paths(folder: str) -> Iterator[str]:
    """Everything below `folder`, in an order that is always the same; its own entry for the digest left out."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name != _CONTENTS:
            yield entry.path
            if entry.is_dir(follow_symlinks=False):
                yield from _paths(entry.path)


def remove_tree(place: Path) -> bool:
    """Whether the tree is gone: not when a process uses it."""
    try:
        handle = hold(place, alone=True)
    except OSError:
        return False
    try:
        shutil.rmtree(place, ignore_errors=True)
        Path(f"{place}.lock").unlink(missing_ok=True)
    finally:
        os.close(handle)
    return True
