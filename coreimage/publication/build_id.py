"""Build ids: `YYYYMMDD`, then `.1`, `.2`, … within the same day (cdimage `build_id.py`), compared numerically."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime

from coreimage.errors import UsageError

_FORM = re.compile(r"(\d{4})(\d{2})(\d{2})(?:\.([1-9]\d*))?", re.ASCII)


@dataclass(frozen=True, order=True)
class BuildId:
    """The name of one dated build; `day` is UTC. `20261123.10` comes after `20261123.2`, and that after `20261123`."""

    day: date
    number: int = 0

    def __str__(self) -> str:
        return f"{self.day:%Y%m%d}" + (f".{self.number}" if self.number else "")


def parse_build_id(text: str) -> BuildId:
    """Parse the text of a build id, such as `20261123.1`.

    Raises:
        UsageError: `text` is no build id.
    """
    match = _FORM.fullmatch(text)
    if match:
        year, month, day, number = match.groups()
        with suppress(ValueError):
            return BuildId(date(int(year), int(month), int(day)), int(number or 0))
    raise UsageError(f"{text!r} is not a build id", resolution="a build id looks like 20261123 or 20261123.1")


def build_ids(names: Iterable[str]) -> tuple[BuildId, ...]:
    """Return the build ids among `names`, each once, oldest first."""
    ids = set()
    for name in names:
        with suppress(UsageError):
            ids.add(parse_build_id(name))
    return tuple(sorted(ids))


def next_build_id(taken: Iterable[BuildId], now: datetime) -> BuildId:
    """Return the next build id of the day of `now` in UTC, after all `taken` ones of that day."""
    day = utc_day(now)
    numbers = [build_id.number for build_id in taken if build_id.day == day]
    return BuildId(day, max(numbers, default=-1) + 1)


def utc_day(now: datetime) -> date:
    """Return the day of `now` in UTC.

    Raises:
        UsageError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise UsageError(f"{now.isoformat()} has no time zone", resolution="hand in an aware datetime, e.g. UTC")
    return now.astimezone(UTC).date()
