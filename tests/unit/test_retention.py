from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreimage.errors import UsageError
from coreimage.retention import Dated, expired

TODAY = date(2026, 11, 23)
ITEMS = st.dictionaries(st.integers(0, 60), st.integers(0, 30)).map(
    lambda ages: [Dated(version, TODAY - timedelta(days=age)) for version, age in ages.items()]
)


@given(ITEMS, st.sets(st.integers(0, 60)), st.integers(0, 10), st.integers(0, 31))
def test_removed_is_exactly_what_no_rule_keeps(
    items: list[Dated[int]], protected: set[int], keep_count: int, keep_days: int
) -> None:
    removed = expired(items, protected=protected, keep_count=keep_count, keep_days=keep_days, today=TODAY)
    newest = sorted((item.id for item in items), reverse=True)[:keep_count]
    for item in items:
        kept = item.id in protected or item.id in newest or (TODAY - item.day).days < keep_days
        assert (item in removed) is not kept
    assert [item.id for item in removed] == sorted(item.id for item in removed)


@given(ITEMS, st.integers(0, 10), st.integers(0, 31))
def test_removing_twice_removes_nothing_more(items: list[Dated[int]], keep_count: int, keep_days: int) -> None:
    removed = expired(items, protected=(), keep_count=keep_count, keep_days=keep_days, today=TODAY)
    left = [item for item in items if item not in removed]
    assert expired(left, protected=(), keep_count=keep_count, keep_days=keep_days, today=TODAY) == ()


def test_a_day_kept_is_today() -> None:
    items = [Dated(1, TODAY - timedelta(days=1)), Dated(2, TODAY)]
    assert expired(items, protected=(), keep_count=0, keep_days=1, today=TODAY) == (items[0],)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot keep -1"):
        expired([Dated(1, TODAY)], protected=(), keep_count=-1, keep_days=0, today=TODAY)
