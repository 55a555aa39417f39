"""Garbage collection: of blobs in the store, and of tools trees and work folders on this machine.

A blob is needed by the objects that name its digest, and by nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coreimage.errors import NotFoundError
from coreimage.host.workspace import sweep
from coreimage.retention import StoredItem, over_budget
from coreimage.rootfs import tidy_trees, trees_folder
from coreimage.storage import Store, blob_key

BLOBS = "blobs/"
_NAMING_PREFIXES = ("locks/", "cdimage/", "system-image/", "images/", "import-cache/")
"""The prefixes of builds, channels, images and locks. `inputs/` is history: nothing is built of what it names."""
RESULTS = "results/"
"""The prefix of the results of tasks, for workers that share a store."""
_PREVIOUS_LOCK = ".previous.json"
"""The suffix of the lock before the current one, which is only compared with."""
_RELEASED_LOCK = ".released.json"
"""The suffix of the lock that a channel was released with, which is only compared with."""
_FRESH = timedelta(hours=6)
"""Blobs younger than this stay: a build may be about to name them."""
_READ_LIMIT_BYTES = 16 << 20
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Garbage:
    """The result of a collection: what it removed, or would remove, and the size of the blobs that are left."""

    blobs: tuple[StoredItem, ...]
    trees: tuple[StoredItem, ...]
    """Unpacked tools trees of this machine; `key` is the digest."""
    folders: tuple[Path, ...]
    """Work folders of this machine that killed commands left."""
    left_bytes: int

    @property
    def freed_bytes(self) -> int:
        """The size of what was removed, without the folders."""
        return sum(item.size_bytes for item in (*self.blobs, *self.trees))


def collect_garbage(
    store: Store, records: Path, *, blobs_bytes: int, trees_bytes: int, dry_run: bool = False
) -> Garbage:
    """Remove the oldest blobs and tools trees that nothing needs until each kind is within its size, and abandoned work
    folders.

    Do not run it beside a build: a blob that the build is about to name would be missing.

    Args:
        store: The store with the blobs.
        records: Where Prefect keeps the results of tasks on this machine, see `record_folder`.
        blobs_bytes: The size that the blobs may take.
        trees_bytes: The size that the unpacked tools trees of this machine may take.
        dry_run: Remove nothing, and only return what would be removed.
    """
    blobs, left_bytes = collect_blobs(store, records, budget_bytes=blobs_bytes, dry_run=dry_run)
    trees = tidy_trees(trees_folder(), budget_bytes=trees_bytes, dry_run=dry_run)
    return Garbage(blobs, trees, tuple(sweep(dry_run=dry_run)), left_bytes)


def record_folder(prefect_home: Path) -> Path:
    """Return where Prefect keeps the results of tasks on this machine (PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH)."""
    home = Path(os.environ.get("PREFECT_HOME", prefect_home))
    return Path(os.environ.get("PREFECT_LOCAL_STORAGE_PATH", home / "storage"))


def collect_blobs(
    store: Store, records: Path, *, budget_bytes: int, dry_run: bool, now: datetime | None = None
) -> tuple[tuple[StoredItem, ...], int]:
    """Remove blobs until they are within a size; return what was removed and how many bytes are left."""
    blobs = [StoredItem(info.key, info.size_bytes, info.modified) for info in store.list(BLOBS)]
    removed = over_budget(
        blobs,
        needed=needed_blobs(store, records),
        used_before=(now or datetime.now(UTC)) - _FRESH,
        budget_bytes=budget_bytes,
    )
    if not dry_run:
        store.delete([item.key for item in removed])
    return removed, sum(item.size_bytes for item in blobs) - sum(item.size_bytes for item in removed)


def needed_blobs(store: Store, records: Path) -> set[str]:
    """Return the keys of the blobs that builds, channels, images, current locks and remembered results name.

    The packages of the current locks are needed too, since the next build is made of them. Of a remembered result, only
    the blobs that it names itself are needed.
    """
    named = set(_named_in_store(store))
    for key in [info.key for info in store.list("locks/") if not info.key.endswith((_PREVIOUS_LOCK, _RELEASED_LOCK))]:
        for lock in digests(_content(store, key)):
            named |= digests(_content(store, blob_key(lock)))
    for key in [info.key for info in store.list(RESULTS)]:
        named |= digests(_content(store, key))
    for path in records.glob("*") if records.is_dir() else ():
        named |= digests(path.read_bytes()) if path.is_file() else set()
    return {blob_key(digest) for digest in named}


def digests(content: bytes) -> set[str]:
    """Return every SHA-256 in hex that a document names."""
    return {match.decode() for match in _DIGEST.findall(content)}


def _named_in_store(store: Store) -> Iterator[str]:
    for prefix in _NAMING_PREFIXES:
        for info in store.list(prefix):
            if info.key.endswith(".json") and not info.key.endswith(_PREVIOUS_LOCK):
                yield from digests(_content(store, info.key))


def _content(store: Store, key: str) -> bytes:
    try:
        with store.open(key, stop=_READ_LIMIT_BYTES) as file:
            return file.read()
    except NotFoundError:
        return b""
