from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coreimage.services.prefect_database import keep_empty_database, place_empty_database


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COREIMAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    path = tmp_path / "migrated.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "PRAGMA journal_mode=WAL; CREATE TABLE configuration (key, value); CREATE TABLE block_type (name);"
            "INSERT INTO configuration VALUES ('ENCRYPTION_KEY', 'its own'); INSERT INTO block_type VALUES ('secret');"
        )
    return path


def rows(path: Path) -> tuple[list[str], list[str]]:
    """The block types and the settings."""
    with closing(sqlite3.connect(path)) as database:
        block_types = [name for (name,) in database.execute("SELECT name FROM block_type")]
        return block_types, [key for (key,) in database.execute("SELECT key FROM configuration")]


def test_the_next_server_finds_the_schema_and_nothing_of_the_first(migrated: Path, tmp_path: Path) -> None:
    assert not place_empty_database(tmp_path / "prefect.db")
    keep_empty_database(migrated)
    assert place_empty_database(tmp_path / "prefect.db")
    assert rows(tmp_path / "prefect.db") == (["secret"], [])
    assert rows(migrated) == (["secret"], ["ENCRYPTION_KEY"]), "the first server keeps what is its own"


def test_what_a_server_has_stored_is_left_alone(migrated: Path, tmp_path: Path) -> None:
    keep_empty_database(migrated)
    (tmp_path / "prefect.db").write_bytes(b"in use")
    assert not place_empty_database(tmp_path / "prefect.db")
    assert (tmp_path / "prefect.db").read_bytes() == b"in use"


def test_a_cache_that_cannot_be_written_is_done_without(migrated: Path, cache: Path, tmp_path: Path) -> None:
    cache.write_text("no folder")
    keep_empty_database(migrated)
    assert not place_empty_database(tmp_path / "prefect.db")
