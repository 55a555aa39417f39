from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from coreimage.retention import StoredItem, over_budget

START = datetime(2026, 1, 1, tzinfo=UTC)
POOLS = st.dictionaries(
    st.sampled_from([f"blobs/{letter}" for letter in "abcdefgh"]), st.tuples(st.integers(0, 50), st.integers(0, 9))
).map(lambda found: [StoredItem(key, size, START + timedelta(hours=age)) for key, (size, age) in found.items()])
NEEDED = st.sets(st.sampled_from([f"blobs/{letter}" for letter in "abcdefgh"]))


@given(pool=POOLS, needed=NEEDED, fresh=st.integers(0, 10), budget_bytes=st.integers(0, 300))
def test_the_decision(pool: list[StoredItem], needed: set[str], fresh: int, budget_bytes: int) -> None:
    since = START + timedelta(hours=fresh)
    removed = over_budget(pool, needed=needed, used_before=since, budget_bytes=budget_bytes)
    free = [item for item in pool if item.key not in needed and item.used < since]
    total_bytes, removed_bytes = sum(i.size_bytes for i in pool), sum(i.size_bytes for i in removed)
    assert set(removed) <= set(free)
    assert list(removed) == sorted(free, key=lambda item: (item.used, item.key))[: len(removed)]
    assert total_bytes - removed_bytes <= budget_bytes or set(removed) == set(free)
    if removed:
        assert total_bytes - (removed_bytes - removed[-1].size_bytes) > budget_bytes


def test_oldest_first_and_only_as_much_as_it_takes() -> None:
    pool = [StoredItem(key, 10, START + timedelta(hours=hours)) for key, hours in (("c", 3), ("a", 1), ("b", 2))]

    def removed(budget_bytes: int, *needed: str) -> list[str]:
        late = START + timedelta(days=1)
        return [i.key for i in over_budget(pool, needed=needed, used_before=late, budget_bytes=budget_bytes)]

    assert removed(30) == []
    assert removed(29) == ["a"]
    assert removed(15) == ["a", "b"]
    assert removed(0, "a") == ["b", "c"]
