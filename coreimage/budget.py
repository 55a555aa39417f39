"""What must go from a pool so that it stays within a size. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from coreimage.errors import UsageError

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[kMGT]?)B?", re.I)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Pooled:
    """An object of the pool; `modified` is UTC."""

    key: str
    size_bytes: int
    modified: datetime


def over_budget(
    pool: Iterable[Pooled], *, needed: Collection[str], fresh_since: datetime, budget_bytes: int
) -> tuple[Pooled, ...]:
    """What to remove, oldest first (by key within the same time), and no more than it takes.

    Never what is `needed` (keys) nor what was written since `fresh_since`: a build may be about to need it. So the pool
    can stay over budget.
    """
    oldest_first = sorted(pool, key=lambda item: (item.modified, item.key))
    excess_bytes = sum(item.size_bytes for item in oldest_first) - budget_bytes
    removed: list[Pooled] = []
    for item in oldest_first:
        if excess_bytes <= 0:
            break
        if item.key not in needed and item.modified < fresh_since:
            removed.append(item)
            excess_bytes -= item.size_bytes
    return tuple(removed)


def parse_size(text: str) -> int:
    """Bytes of `20G`, `1.5 TB`, `500000`; units are decimal. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a size", resolution="a size looks like 20G or 500M")
    return int(float(found["number"]) * _UNITS[found["unit"].lower()])
