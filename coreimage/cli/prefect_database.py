"""An empty database of Prefect's server, kept for the next server: migrating one is half of a first start."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

from coreimage.cache import cache_folder


def place_empty_database(path: Path) -> bool:
    """Whether there was one to place; a server migrates its own where not. One that exists is left alone."""
    if path.exists() or not _kept().exists():
        return False
    _copy(_kept(), path)
    return True


def keep_empty_database(path: Path) -> None:
    """To be called when the server that migrated it is ready and nobody has used it. A full disk keeps nothing."""
    if _kept().exists():
        return
    with suppress(OSError, sqlite3.OperationalError):
        _kept().parent.mkdir(parents=True, exist_ok=True)
        _copy(path, _kept())


def _kept() -> Path:
    """Another release of Prefect or of what it stores with has another schema."""
    versions = "-".join(version(package) for package in ("prefect", "sqlalchemy"))
    return cache_folder() / f"prefect-{versions}.db"


def _copy(source: Path, target: Path) -> None:
    """Whole, whatever its server has in the write-ahead log, and with no setting of that server's own."""
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
