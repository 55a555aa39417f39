"""The store's pool: content-addressed blobs. What names a blob's digest needs it; nothing else does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coreimage.budget import Pooled, over_budget
from coreimage.errors import NotFoundError
from coreimage.storage import Store, blob_key

POOL = "blobs/"
_NAMING = ("locks/", "cdimage/", "system-image/", "images/", "import-cache/")
"""Where builds, channels, images and locks stand. `inputs/` only tells what once was."""
RESULTS = "results/"
"""Where workers that share a store keep the results of tasks."""
_FORGOTTEN = ".previous.json"
"""The lock before the current one: only for comparing, while it lasts."""
_OUTCOME = ".released.json"
"""The lock that a channel was released with: it is compared with, and nothing is built of it any more."""
_FRESH = timedelta(hours=6)
_READ_LIMIT_BYTES = 16 << 20
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def record_folder(prefect_home: Path) -> Path:
    """Where Prefect keeps the results of tasks on this machine (PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH)."""
    home = Path(os.environ.get("PREFECT_HOME", prefect_home))
    return Path(os.environ.get("PREFECT_LOCAL_STORAGE_PATH", home / "storage"))


def collect(
    store: Store, records: Path, *, budget_bytes: int, dry_run: bool, now: datetime | None = None
) -> tuple[tuple[Pooled, ...], int]:
    """Removes what is over budget; gives what it removed and how many bytes the pool has left."""
    pool = [Pooled(info.key, info.size_bytes, info.modified) for info in store.list(POOL)]
    removed = over_budget(
        pool,
        needed=needed_blobs(store, records),
        fresh_since=(now or datetime.now(UTC)) - _FRESH,
        budget_bytes=budget_bytes,
    )
    if not dry_run:
        store.delete([item.key for item in removed])
    return removed, sum(item.size_bytes for item in pool) - sum(item.size_bytes for item in removed)


def needed_blobs(store: Store, records: Path) -> set[str]:
    """Keys of the blobs that builds, channels, images, current locks and remembered results name.

    The lock that a pointer names is followed to its packages: the next build is made of them. A remembered result needs
    what it names itself, and no more.
    """
    named = set(_named_in_store(store))
    for key in [info.key for info in store.list("locks/") if not info.key.endswith((_FORGOTTEN, _OUTCOME))]:
        for lock in digests(_content(store, key)):
            named |= digests(_content(store, blob_key(lock)))
    for key in [info.key for info in store.list(RESULTS)]:
        named |= digests(_content(store, key))
    for path in records.glob("*") if records.is_dir() else ():
        named |= digests(path.read_bytes()) if path.is_file() else set()
    return {blob_key(digest) for digest in named}


def digests(content: bytes) -> set[str]:
    """Pure: every SHA-256 in hex that a document names."""
    return {match.decode() for match in _DIGEST.findall(content)}


def _named_in_store(store: Store) -> Iterator[str]:
    for prefix in _NAMING:
        for info in store.list(prefix):
            if info.key.endswith(".json") and not info.key.endswith(_FORGOTTEN):
                yield from digests(_content(store, info.key))


def _content(store: Store, key: str) -> bytes:
    try:
        with store.open(key, stop=_READ_LIMIT_BYTES) as file:
            return file.read()
    except NotFoundError:
        return b""
