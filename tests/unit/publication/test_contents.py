"""`.contents/`: which id a content has, without reading every reservation; a hint that is never believed alone."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from coreimage.model import JSON
from coreimage.publication import BuildTree, content_sha256, expire_builds, publish_build
from coreimage.storage import Store, read_bytes
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore
from tests.unit.publication.builds import NOON, content
from tests.unit.publication.stores import WatchedStore

TREE = BuildTree(project="debian-core", series="13", image_type="daily-preinstalled")
DAYS = 6


@pytest.fixture
def store() -> Store:
    """A build a day, the first of them of content "0"."""
    store = MemoryStore()
    for day in range(DAYS):
        publish(store, str(day), day)
    return store


def publish(store: Store, tag: str, day: int) -> str:
    now = NOON + timedelta(days=day)
    return publish_build(content(store, tag), store=store, signer=MemorySigner(), now=now).build_id


def entry_key(store: Store, tag: str) -> str:
    return TREE.content_key(content_sha256(content(store, tag)))


def entry(store: Store, tag: str) -> str | None:
    found = read_bytes(store, entry_key(store, tag))
    return str(json.loads(found)["build_id"]) if found else None


def reservations_read(store: Store, tag: str) -> tuple[str, list[str]]:
    """The id that content gets when it is published again, and whose reservations were read for that."""
    read: list[str] = []

    def look(operation: str, key: str) -> None:
        if operation == "open" and f"/{TREE.RESERVATIONS}/" in key:
            read.append(key.rpartition("/")[2].removesuffix(".json"))

    return publish(WatchedStore(store, look), tag, DAYS), read


def test_old_content_is_found_by_its_entry(store: Store) -> None:
    assert entry(store, "0") == "20261123"
    assert reservations_read(store, "0") == ("20261123", ["20261123"])


def test_an_entry_that_names_another_builds_id_is_not_believed(store: Store) -> None:
    store.put_bytes(entry_key(store, "new"), b'{"format": 1, "build_id": "20261124"}', media_type=JSON)
    assert publish(store, "new", DAYS) == "20261129"
    assert entry(store, "new") == "20261129"
    assert entry(store, "1") == "20261124"


def test_an_entry_that_names_a_build_that_is_gone_is_replaced(store: Store) -> None:
    store.put_bytes(entry_key(store, "new"), b'{"format": 1, "build_id": "20200101"}', media_type=JSON)
    assert publish(store, "new", DAYS) == "20261129"
    assert entry(store, "new") == "20261129"


def test_an_entry_goes_with_its_build_and_with_no_other(store: Store) -> None:
    later = NOON + timedelta(days=DAYS)
    store.put_bytes(entry_key(store, "1"), b'{"format": 1, "build_id": "20261128"}', media_type=JSON)
    assert expire_builds(TREE, keep_count=1, keep_days=0, store=store, now=later) == tuple(
        f"202611{day}" for day in range(23, 28)
    )
    assert [entry(store, str(day)) for day in range(DAYS)] == [None, "20261128", None, None, None, "20261128"]
    assert publish(store, "0", DAYS) == "20261129", "its content is new again"
