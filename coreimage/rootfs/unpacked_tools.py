"""Tools trees on this machine: each is unpacked once, for all processes, into a cache folder.

A process that uses a tree holds a shared lock on it as long as it lives, so that no clean-up removes it. It reads all
of the tree once before, since sizes and times can be put back by whoever changes a file.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from coreimage.host.cache_folder import cache_folder
from coreimage.host.process import Run, run, run_in
from coreimage.host.workspace import workspace
from coreimage.model import ToolsTree, size_bytes
from coreimage.retention import StoredItem, over_budget
from coreimage.storage import Store, fetch_blob

log = structlog.get_logger("coreimage.tools")

BUDGET_VARIABLE, DEFAULT_BUDGET = "COREIMAGE_TOOLS_BUDGET", "4G"
_CONTENTS = "contents"
"""A file beside `usr` and `etc`, which are all that programs of the tree see: the digest of the tree's contents."""
_READERS = 4
_DIGEST = re.compile(r"[0-9a-f]{64}")
_held: dict[Path, int] = {}
"""The locks of the trees that this process uses."""
_one_at_a_time = threading.Lock()


def trees_folder() -> Path:
    """Return where this machine has its tools trees."""
    return cache_folder() / "tools"


def trees_budget_bytes() -> int:
    """Return what the trees of this machine may take. Raises UsageError when COREIMAGE_TOOLS_BUDGET is no size."""
    return size_bytes(os.environ.get(BUDGET_VARIABLE) or DEFAULT_BUDGET, BUDGET_VARIABLE)


def tools_run(tools: ToolsTree, *, store: Store) -> Run:
    """Return a runner that runs the programs of a tools tree.

    Raises:
        NotFoundError: The store does not have the tree.
        VerificationError: The tree in the store is damaged.
    """
    return run_in(unpacked_tools(tools, store=store, folder=trees_folder()))


def unpacked_tools(tools: ToolsTree, *, store: Store, folder: Path) -> Path:
    """Return the tree of a store, unpacked into `folder` if it is not there; this process holds it from now on."""
    return unpacked_tree(tools.tree.sha256, folder=folder, fetch=lambda path: fetch_blob(store, tools.tree, path))


def unpacked_tree(sha256: str, *, folder: Path, fetch: Callable[[Path], object]) -> Path:
    """Return a packed tree unpacked into `folder`; this process holds it from now on.

    Args:
        sha256: The digest of the packed tree, which is the name of its folder, too.
        folder: Where trees are.
        fetch: Puts the packed tree at a path; it is called only if the tree is not there or was changed.
    """
    tree = folder / sha256
    with _one_at_a_time:
        if tree not in _held:
            with suppress(PermissionError):
                folder.mkdir(parents=True, exist_ok=True)
            _held[tree] = hold(tree)
            if not _is_whole(tree):
                with (folder / "making.lock").open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not _is_whole(tree):
                        _unpack(tree, fetch)
                        tidy_trees(folder, budget_bytes=trees_budget_bytes())
    return tree


def hold(tree: Path, *, alone: bool = False, use: bool = True) -> int:
    """Lock a tree.

    Args:
        tree: The tree's folder, which need not be there yet.
        alone: Whether nobody else may hold the tree.
        use: Whether this counts as a use of the tree.

    Returns:
        The file handle of the lock, which holds the tree until it is closed.

    Raises:
        BlockingIOError: The tree is wanted `alone`, and somebody holds it.
    """
    name = f"{tree}.lock"
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


def _unpack(tree: Path, fetch: Callable[[Path], object]) -> None:
    log.info("unpacking the tools", tree=tree.name, folder=str(tree))
    with workspace("tools", parent=tree.parent) as folder:
        new, packed = folder / "tree", folder / "tree.tar.gz"
        new.mkdir(mode=0o755)
        fetch(packed)
        run(["tar", "--extract", "--gzip", "--file", packed, "--directory", new, "--no-same-owner", "-p"])
        (new / _CONTENTS).write_text(_digest(new))
        if tree.exists():
            log.warning("the tools had been changed or damaged, and were unpacked again", folder=str(tree))
            tree.rename(folder / "damaged")
        new.rename(tree)


def _is_whole(tree: Path) -> bool:
    try:
        return (tree / _CONTENTS).read_text() == _digest(tree)
    except OSError:
        return False


def _digest(tree: Path) -> str:
    """The digest of all names, modes, link targets and bytes."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_READERS) as readers:
        for path, facts in readers.map(_facts, _paths(str(tree))):
            digest.update(f"{path.removeprefix(str(tree))}\0{facts}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _facts(path: str) -> tuple[str, str]:
    mode = os.lstat(path).st_mode
    content = ""
    if stat.S_ISLNK(mode):
        content = str(Path(path).readlink())
    elif stat.S_ISREG(mode):
        with Path(path).open("rb", buffering=0) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    return path, f"{mode:o}\0{content}"


def _paths(folder: str) -> Iterator[str]:
    """Everything below `folder` but the file with the digest, in an order that is always the same."""
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    for entry in in_order:
        if entry.name != _CONTENTS:
            yield entry.path
            if entry.is_dir(follow_symlinks=False):
                yield from _paths(entry.path)


def tidy_trees(folder: Path, *, budget_bytes: int, dry_run: bool = False) -> tuple[StoredItem, ...]:
    """Remove the trees that were not used for longest, until the others take no more than `budget_bytes`.

    A tree that a process holds stays.

    Returns:
        The trees that were removed (with `dry_run`: that would be); `key` is the digest.
    """
    trees, held = [], set()
    for tree in folder.glob("*/"):
        if not _DIGEST.fullmatch(tree.name):
            continue
        tree_bytes, lock = sum(os.lstat(path).st_blocks * 512 for path in _paths(str(tree))), Path(f"{tree}.lock")
        used_s = (lock if lock.exists() else tree).stat().st_mtime
        trees.append(StoredItem(tree.name, tree_bytes, datetime.fromtimestamp(used_s, UTC)))
        try:
            os.close(hold(tree, alone=True, use=False))
        except OSError:
            held.add(tree.name)
    surplus = over_budget(trees, needed=held, budget_bytes=budget_bytes)
    removed = tuple(item for item in surplus if dry_run or remove_tree(folder / item.key))
    for item in removed if not dry_run else ():
        log.info("a tools tree was removed: the machine's trees are over their size", tree=item.key)
    return removed


def remove_tree(tree: Path) -> bool:
    """Remove a tree unless a process uses it; return whether it was removed."""
    try:
        handle = hold(tree, alone=True)
    except OSError:
        return False
    try:
        # The lock's file stays: whoever waits for it must not get a lock that nobody else sees.
        shutil.rmtree(tree, ignore_errors=True)
    finally:
        os.close(handle)
    return True
