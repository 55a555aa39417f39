from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from coreimage.errors import NotFoundError
from coreimage.publication import (
    BuildId,
    BuildTree,
    complete_builds,
    expire_builds,
    mark_good,
    parse_build_id,
    pin_build,
    publish_build,
    read_build,
    read_pin,
    unpin_build,
)
from coreimage.publication.builds import survey_builds
from coreimage.storage import Store
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore
from tests.unit.publication.builds import NOON, content
from tests.unit.publication.stores import Killed, WatchedStore, killing_store

TREE = BuildTree(project="debian-core", series="13", image_type="daily-preinstalled")


@pytest.fixture
def store() -> Store:
    return five_builds(MemoryStore())


def five_builds(store: Store) -> Store:
    for day in range(5):
        publish(store, day)
    return store


def publish(store: Store, day: int, tag: str = "") -> str:
    built = content(store, f"{tag}{day}")
    published = publish_build(built, store=store, signer=MemorySigner(), now=NOON + timedelta(days=day))
    return published.build_id


def expire(store: Store, keep_count: int = 1, keep_days: int = 0, *, dry_run: bool = False) -> tuple[str, ...]:
    now = NOON + timedelta(days=5)
    return expire_builds(TREE, keep_count=keep_count, keep_days=keep_days, store=store, now=now, dry_run=dry_run)


def left(store: Store) -> list[str]:
    return [str(build_id) for build_id in complete_builds(TREE, store=store)]


def test_the_newest_stay_and_the_removed_are_named_oldest_first(store: Store) -> None:
    assert expire(store, keep_count=2) == ("20261123", "20261124", "20261125")
    assert left(store) == ["20261126", "20261127"]
    assert not [info.key for info in store.list(f"{TREE.prefix}/20261123")]
    assert expire(store, keep_count=2) == ()


def test_young_builds_stay(store: Store) -> None:
    assert expire(store, keep_count=0, keep_days=3) == ("20261123", "20261124", "20261125")


def test_pending_current_and_pinned_stay(store: Store) -> None:
    first = read_build(TREE, complete_builds(TREE, store=store)[0], store=store)
    mark_good(first, "amd64", [], store=store, now=NOON)
    assert pin_build(TREE, parse_build_id("20261125"), "for the fair", store=store, now=NOON)
    assert expire(store, keep_count=0, dry_run=True) == ("20261124", "20261126")
    assert expire(store, keep_count=0) == ("20261124", "20261126")
    assert left(store) == ["20261123", "20261125", "20261127"]
    assert read_build(TREE, parse_build_id("20261125"), store=store)


def test_what_is_unpinned_goes(store: Store) -> None:
    oldest = parse_build_id("20261123")
    assert not unpin_build(TREE, oldest, store=store)
    assert pin_build(TREE, oldest, store=store, now=NOON)
    assert not pin_build(TREE, oldest, store=store, now=NOON), "it is pinned already"
    assert pin_build(TREE, oldest, "why", store=store, now=NOON)
    pin = read_pin(TREE, oldest, store=store)
    assert pin
    assert (pin.note, pin.build_id) == ("why", "20261123")
    assert "20261123" not in expire(store)
    assert unpin_build(TREE, oldest, store=store)
    assert expire(store) == ("20261123",)


def test_only_what_is_published_can_be_pinned(store: Store) -> None:
    absent = parse_build_id("20261122")
    with pytest.raises(NotFoundError, match="build 20261122 is not published"):
        pin_build(TREE, absent, store=store, now=NOON)
    with pytest.raises(NotFoundError, match="build 20261122 is not published"):
        unpin_build(TREE, absent, store=store)
    assert read_pin(TREE, absent, store=store) is None


def test_a_pin_that_is_accepted_while_retention_runs_holds() -> None:
    """Pins at every call of retention in turn, until there are no more calls."""
    build_id, outcomes = parse_build_id("20261124"), list[bool]()
    for call in range(100):
        store = five_builds(MemoryStore())
        accepted = expire_while_pinning(store, build_id, call)
        if accepted is None:
            break
        outcomes.append(accepted)
        assert not accepted or build_id in complete_builds(TREE, store=store), f"pinned at call {call}"
    assert {True, False} == set(outcomes)


def expire_while_pinning(store: Store, build_id: BuildId, call: int) -> bool | None:
    """Whether the pin that comes before the given call was accepted; None when there were fewer calls."""
    calls, accepted = iter(range(1_000)), list[bool]()

    def pin(operation: str, key: str) -> None:
        if next(calls) == call:
            try:
                accepted.append(pin_build(TREE, build_id, store=store, now=NOON))
            except NotFoundError:
                accepted.append(False)

    expire(WatchedStore(store, pin))
    return accepted[0] if accepted else None


def test_todays_builds_stay_so_that_no_id_is_given_twice(store: Store) -> None:
    publish(store, 5)
    publish(store, 5, "second of the day ")
    publish(store, 6)
    assert "20261128" not in expire(store, keep_count=0)


def test_a_dry_run_names_and_keeps(store: Store) -> None:
    assert expire(store, dry_run=True) == ("20261123", "20261124", "20261125", "20261126")
    assert len(left(store)) == 5


def test_removed_content_comes_back_as_a_new_build(store: Store) -> None:
    expire(store)
    now = NOON + timedelta(days=6)
    assert publish_build(content(store, "0"), store=store, signer=MemorySigner(), now=now).build_id == "20261129"


def test_work_in_progress_stays_and_abandoned_work_goes(store: Store) -> None:
    def before(operation: str, key: str) -> None:
        if key.endswith("SHA256SUMS.gpg"):
            raise Killed

    with pytest.raises(Killed):
        publish_build(content(store, "x"), store=WatchedStore(store, before), signer=MemorySigner(), now=NOON)
    assert str(survey_builds(TREE, store=store).taken[1]) == "20261123.1"
    written = datetime.now(UTC)
    late = written + timedelta(days=1)
    assert "20261123.1" not in expire_builds(TREE, keep_count=9, keep_days=0, store=store, now=written)
    assert "20261123.1" not in expire_builds(TREE, keep_count=9, keep_days=0, store=store, now=late)
    later = max(written, NOON) + timedelta(days=3)
    assert expire_builds(TREE, keep_count=9, keep_days=0, store=store, now=later) == ("20261123.1",)
    assert store.head(TREE.reservation_key(survey_builds(TREE, store=store).taken[0])) is not None
    assert len(left(store)) == 5


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_no_reader_sees_half_a_build(before: bool) -> None:
    for call in range(300):
        store = MemoryStore()
        publish(store, 0)
        publish(store, 1)

        def look(store: Store = store) -> None:
            for build_id in complete_builds(TREE, store=store):
                read_build(TREE, build_id, store=store)

        try:
            expire(killing_store(store, call, before=before, seen=look))
        except Killed:
            look()
            assert "20261124" in left(store)
        else:
            assert call > 10
            break
