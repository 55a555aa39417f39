from __future__ import annotations

import json
from typing import Any

import pytest

from coreimage.errors import NotFoundError, VerificationError
from coreimage.model import Architecture, PublishedBuild
from coreimage.publication import good_architectures, mark_good, publish_build
from coreimage.storage import Store, read_bytes
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore
from tests.unit.publication.builds import NOON, boot_report, content
from tests.unit.publication.stores import Killed, WatchedStore, killing_store

CURRENT = "cdimage/debian-core/13/daily-preinstalled/current.json"


@pytest.fixture
def store() -> Store:
    return MemoryStore()


def publish(store: Store, tag: str) -> PublishedBuild:
    built = content(store, tag, architectures=("amd64", "arm64"), devices=("generic_amd64", "azure_amd64"))
    return publish_build(built, store=store, signer=MemorySigner(), now=NOON)


def mark(published: PublishedBuild, architecture: Architecture, store: Store) -> None:
    mark_good(published, architecture, [boot_report(store)], store=store, now=NOON)


def current(store: Store) -> dict[str, Any]:
    found = read_bytes(store, CURRENT)
    architectures = json.loads(found or b'{"architectures": {}}')["architectures"]
    return {architecture: good["build_id"] for architecture, good in architectures.items()}


def test_publishing_alone_marks_nothing_good(store: Store) -> None:
    publish(store, "a")
    assert current(store) == {}


def test_each_architecture_moves_on_its_own(store: Store) -> None:
    first, second = publish(store, "a"), publish(store, "b")
    mark(first, "amd64", store)
    mark(first, "arm64", store)
    mark(second, "amd64", store)
    assert current(store) == {"amd64": "20261123.1", "arm64": "20261123"}


def test_marked_good_lists_the_tarballs_found_good(store: Store) -> None:
    published = publish(store, "a")
    mark(published, "amd64", store)
    amd64 = [
        "trixie-preinstalled-core-amd64.azure.device.tar.gz",
        "trixie-preinstalled-core-amd64.device.tar.gz",
        "trixie-preinstalled-core-amd64.tar.gz",
    ]
    assert (read_bytes(store, f"{published.prefix}/.marked_good") or b"").decode().split() == amd64
    mark(published, "arm64", store)
    both = [*amd64, "trixie-preinstalled-core-arm64.tar.gz"]
    assert (read_bytes(store, f"{published.prefix}/.marked_good") or b"").decode().split() == both


def test_what_is_good_does_not_hang_on_the_name_of_the_product(store: Store) -> None:
    built = content(store, architectures=("amd64", "arm64"), devices=("generic_amd64",), product="core-2.0")
    published = publish_build(built, store=store, signer=MemorySigner(), now=NOON)
    assert good_architectures(published, store=store) == frozenset()
    mark(published, "amd64", store)
    assert good_architectures(published, store=store) == {"amd64"}
    mark(published, "arm64", store)
    assert good_architectures(published, store=store) == {"amd64", "arm64"}


def test_current_keeps_the_evidence(store: Store) -> None:
    mark(publish(store, "a"), "amd64", store)
    good = json.loads(read_bytes(store, CURRENT) or b"")["architectures"]["amd64"]
    assert good["marked"] == "2026-11-23T12:00:00+00:00"
    assert good["evidence"][0]["reason"] == "login prompt"


def test_current_never_moves_backwards_though_numbers_have_two_digits(store: Store) -> None:
    builds = [publish(store, str(number)) for number in range(11)]
    mark(builds[10], "amd64", store)
    mark(builds[2], "amd64", store)
    assert current(store) == {"amd64": "20261123.10"}
    assert store.head(f"{builds[2].prefix}/.marked_good") is not None


def test_marking_twice_changes_nothing(store: Store) -> None:
    published = publish(store, "a")
    mark(published, "amd64", store)
    before = {info.key: info.etag for info in store.list()}
    mark(published, "amd64", store)
    assert {info.key: info.etag for info in store.list()} == before


def test_a_failed_boot_is_never_good(store: Store) -> None:
    published = publish(store, "a")
    with pytest.raises(VerificationError, match="no login prompt"):
        mark_good(published, "amd64", [boot_report(store, passed=False)], store=store, now=NOON)
    assert current(store) == {}
    assert store.head(f"{published.prefix}/.marked_good") is None


def test_what_is_not_there_cannot_be_good(store: Store) -> None:
    built = content(store, "only amd64")
    published = publish_build(built, store=store, signer=MemorySigner(), now=NOON)
    with pytest.raises(NotFoundError, match="nothing in this build is for arm64"):
        mark(published, "arm64", store)
    store.delete([published.checksums.uri])
    with pytest.raises(NotFoundError, match="is not published"):
        mark(published, "amd64", store)


@pytest.mark.parametrize("marked_before", [True, False])
def test_two_markers_at_once_both_count(store: Store, marked_before: bool) -> None:
    """The other one writes just before this one's swap, whether it replaces a document or makes the first."""
    first = publish(store, "a")
    if marked_before:
        mark(first, "amd64", store)
        mark(first, "arm64", store)
    published = publish(store, "b")
    rivals = ["arm64"]

    def before(operation: str, key: str) -> None:
        if operation == "put_bytes" and key == CURRENT and rivals:
            rivals.pop()
            mark(published, "arm64", store)

    mark(published, "amd64", WatchedStore(store, before))
    assert current(store) == {"amd64": "20261123.1", "arm64": "20261123.1"}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_a_rerun_finishes(before: bool) -> None:
    for call in range(100):
        store = MemoryStore()
        published = publish(store, "a")
        try:
            mark(published, "amd64", killing_store(store, call, before=before))
        except Killed:
            mark(published, "amd64", store)
        else:
            assert call > 2
            break
        assert current(store) == {"amd64": "20261123"}
        assert store.head(f"{published.prefix}/.marked_good") is not None
