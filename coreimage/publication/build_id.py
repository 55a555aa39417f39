"""Build ids: `YYYYMMDD`, then `.1`, `.2`, … within the same day (cdimage `build_id.py`), compared numerically."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from coreimage.errors import UsageError

_FORM = re.compile(r"(\d{4})(\d{2})(\d{2})(?:\.([1-9]\d*))?", re.ASCII)


@dataclass(frozen=True, order=True)
class BuildId:
    """`day` is UTC. `20261123.10` comes after `20261123.2`, which comes after `20261123`."""

    day: date
    number: int = 0

    def __str__(self) -> str:
        return f"{self.day:%Y%m%d}" + (f".{self.number}" if self.number else "")


def parse_build_id(text: str) -> BuildId:
    """Raises UsageError for anything that `str()` of a BuildId would not give."""
    found = _FORM.fullmatch(text)
    try:
        if found:
            year, month, day, number = found.groups()
            return BuildId(date(int(year), int(month), int(day)), int(number or 0))
    except ValueError:
        pass
    raise UsageError(f"{text!r} is not a build id", resolution="a build id looks like 20261123 or 20261123.1")


def build_ids(names: Iterable[str]) -> tuple[BuildId, ...]:
    """Those of `names` that are build ids, each once, oldest first."""
    return tuple(sorted({parse_build_id(name) for name in names if _is_build_id(name)}))


def next_build_id(taken: Iterable[BuildId], now: datetime) -> BuildId:
    """The first id of the day of `now`, counted in UTC, that comes after all `taken` ones of that day."""
    day = utc_day(now)
    numbers = [build_id.number for build_id in taken if build_id.day == day]
    return BuildId(day, max(numbers, default=-1) + 1)


def utc_day(now: datetime) -> date:
    if now.tzinfo is None:
        raise UsageError(f"{now.isoformat()} has no time zone", resolution="hand in an aware datetime, e.g. UTC")
    return now.astimezone(UTC).date()


def _is_build_id(name: str) -> bool:
    try:
        parse_build_id(name)
    except UsageError:
        return False
    return True
