from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreimage.errors import UsageError
from coreimage.publication.build_id import BuildId, build_ids, next_build_id, parse_build_id

IDS = st.builds(BuildId, st.dates(min_value=date(1000, 1, 1)), st.integers(0, 10**6))
TODAY = date(2026, 11, 23)


def test_ids_of_a_day_are_ordered_numerically() -> None:
    names = ["20261123.10", "20261124", "20261123.2", "20261123", "20261123.9"]
    assert [str(build_id) for build_id in build_ids(names)] == [
        "20261123",
        "20261123.2",
        "20261123.9",
        "20261123.10",
        "20261124",
    ]


@given(IDS)
def test_an_id_survives_being_written_and_read(build_id: BuildId) -> None:
    assert parse_build_id(str(build_id)) == build_id


@given(st.text(alphabet="0123456789. -", max_size=12) | st.text())
def test_only_what_an_id_prints_is_an_id(text: str) -> None:
    try:
        build_id = parse_build_id(text)
    except UsageError:
        return
    assert str(build_id) == text


@pytest.mark.parametrize(
    "text", ["20261123.0", "20261123.01", "20261399", "2026112", "20261123.", "pending", "٢٠٢٦١١٢٣"]
)
def test_bad_ids_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a build id"):
        parse_build_id(text)


@given(st.sets(IDS))
def test_the_next_id_is_free_and_the_newest_of_its_day(taken: set[BuildId]) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    given_id = next_build_id(taken, now)
    assert given_id.day == TODAY
    assert all(given_id > build_id for build_id in taken if build_id.day == TODAY)


def test_the_first_id_is_the_bare_day_and_the_second_has_1() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert str(next_build_id([], now)) == "20261123"
    assert str(next_build_id([BuildId(TODAY)], now)) == "20261123.1"
    assert str(next_build_id([BuildId(TODAY, 9)], now)) == "20261123.10"


def test_the_day_is_counted_in_utc() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert str(next_build_id([], datetime(2026, 11, 24, 8, tzinfo=tokyo))) == "20261123"


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="time zone"):
        next_build_id([], datetime(2026, 11, 23))  # noqa: DTZ001
