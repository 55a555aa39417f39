"""An empty, migrated database of Prefect's server in the cache: migrating one takes half of a server's first start."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

from coreimage.host.cache_folder import cache_folder


def place_empty_database(path: Path) -> bool:
    """Copy the cached database to `path`, unless something is there; return whether it was copied.

    A server migrates its own where there is none.
    """
    if path.exists() or not _cached_database().exists():
        return False
    _copy(_cached_database(), path)
    return True


def keep_empty_database(path: Path) -> None:
    """Put the database of a server into the cache; to be called when the server is ready and nobody has used it."""
    if _cached_database().exists():
        return
    # The cache only saves time: a full disk must not end the command.
    with suppress(OSError, sqlite3.OperationalError):
        _cached_database().parent.mkdir(parents=True, exist_ok=True)
        _copy(path, _cached_database())


def _cached_database() -> Path:
    # Another release of Prefect, or of the library that it stores with, has another schema.
    versions = "-".join(version(package) for package in ("prefect", "sqlalchemy"))
    return cache_folder() / f"prefect-{versions}.db"


def _copy(source: Path, target: Path) -> None:
    """Copy a database, with what its server has in the write-ahead log and without that server's own settings."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(temporary)) as new:
            old.backup(new)
            new.execute("DELETE FROM configuration")
            new.commit()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
