"""Tools trees on this machine: each unpacked once, for all processes, into a cache folder.

A user of a tree holds a shared lock on it as long as its process lives, so that no tidying takes it away.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from coreimage.budget import Pooled, over_budget, parse_size
from coreimage.cache import cache_folder
from coreimage.model import ToolsTree
from coreimage.process import Run, run, run_in
from coreimage.storage import Store, fetch_blob
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.tools")

BUDGET_VARIABLE, DEFAULT_BUDGET = "COREIMAGE_TOOLS_BUDGET", "4G"
_CONTENTS = "contents"
"""Beside `usr` and `etc`: the digest of all names, modes, sizes and times."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_held: dict[Path, int] = {}
_one_at_a_time = threading.Lock()


def trees_folder() -> Path:
    return cache_folder() / "tools"


def trees_budget_bytes() -> int:
    """What the unpacked trees of this machine may take. Raises UsageError for a variable that says none."""
    return parse_size(os.environ.get(BUDGET_VARIABLE) or DEFAULT_BUDGET)


def tools_run(tools: ToolsTree, *, store: Store) -> Run:
    """Runs the programs of the tree. Raises NotFoundError or VerificationError for a tree the store does not have."""
    return run_in(unpacked_tools(tools, store=store, folder=trees_folder()))


def unpacked_tools(tools: ToolsTree, *, store: Store, folder: Path) -> Path:
    """The tree in `folder`, whole; from now on held by this process."""
    return unpacked_tree(tools.tree.sha256, folder=folder, fetch=lambda path: fetch_blob(store, tools.tree, path))


def unpacked_tree(sha256: str, *, folder: Path, fetch: Callable[[Path], object]) -> Path:
    """The same of a packed tree with that digest, which `fetch` puts at the path given it, if it is needed."""
    place = folder / sha256
    with _one_at_a_time:
        if place not in _held:
            with suppress(PermissionError):
                folder.mkdir(parents=True, exist_ok=True)
            _held[place] = hold(place)
            if not _whole(place):
                with _making(folder):
                    if not _whole(place):
                        _unpack(place, fetch)
                        tidy_trees(folder, budget_bytes=trees_budget_bytes())
    return place


def hold(place: Path, *, alone: bool = False, use: bool = True) -> int:
    """A lock on the tree, by its handle; dates its last `use`.

    Raises BlockingIOError when it is wanted `alone` and somebody holds it.
    """
    name = f"{place}.lock"
    try:
        handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        if use:
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


def _unpack(place: Path, fetch: Callable[[Path], object]) -> None:
    log.info("unpacking the tools", tree=place.name, folder=str(place))
    with workspace("tools", parent=place.parent) as folder:
        new, packed = folder / "tree", folder / "tree.tar.gz"
        new.mkdir(mode=0o755)
        fetch(packed)
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


def tidy_trees(folder: Path, *, budget_bytes: int, dry_run: bool = False) -> tuple[Pooled, ...]:
    """Removes the trees that were not used for longest, until those that are left take no more than `budget_bytes`.

    A tree that a process holds stays. Gives what went: `key` is the tree's digest, `modified` its last use.
    """
    trees = [_pooled(place) for place in folder.glob("*/") if _DIGEST.fullmatch(place.name)]
    used = {tree.key for tree in trees if not _idle(folder / tree.key)}
    surplus = over_budget(trees, needed=used, fresh_since=datetime.max.replace(tzinfo=UTC), budget_bytes=budget_bytes)
    removed = tuple(tree for tree in surplus if dry_run or remove_tree(folder / tree.key))
    for tree in removed if not dry_run else ():
        log.info("a tools tree was removed: the machine's trees are over their size", tree=tree.key)
    return removed


def _pooled(place: Path) -> Pooled:
    size_bytes = sum(os.lstat(path).st_blocks * 512 for path in _paths(str(place)))
    lock = Path(f"{place}.lock")
    used_s = (lock if lock.exists() else place).stat().st_mtime
    return Pooled(place.name, size_bytes, datetime.fromtimestamp(used_s, UTC))


def _idle(place: Path) -> bool:
    try:
        os.close(hold(place, alone=True, use=False))
    except OSError:
        return False
    return True


def remove_tree(place: Path) -> bool:
    """Whether the tree is gone: not when a process uses it."""
    try:
        handle = hold(place, alone=True)
    except OSError:
        return False
    try:
        # The lock's file stays: whoever waits for it must not get a lock that nobody else sees.
        shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)
    return True
