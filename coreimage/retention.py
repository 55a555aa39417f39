"""What to keep and what to remove: by number and age, or by size. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from coreimage.errors import UsageError


class _Ordered(Hashable, Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


Id = TypeVar("Id", bound=_Ordered)


@dataclass(frozen=True)
class Dated(Generic[Id]):
    """Something that grows old. Of two the one with the greater `id` is the newer; `day` (UTC) is when it was made."""

    id: Id
    day: date


def expired(
    items: Iterable[Dated[Id]], *, protected: Collection[Id], keep_count: int, keep_days: int, today: date
) -> tuple[Dated[Id], ...]:
    """Decide what to remove of builds, image versions or disk images.

    An item stays if any rule says so: it is `protected`, or among the newest `keep_count` (protected items are counted
    there too), or younger than `keep_days` (1: only today's).

    Returns:
        The items to remove, oldest first.

    Raises:
        UsageError: `keep_count` or `keep_days` is negative.
    """
    if keep_count < 0 or keep_days < 0:
        raise UsageError(f"cannot keep {min(keep_count, keep_days)}", resolution="retention counts from 0")
    newest_first = sorted(items, key=lambda item: item.id, reverse=True)
    oldest_kept_day = today - timedelta(days=keep_days) + timedelta(days=1)
    removed = [item for item in newest_first[keep_count:] if item.day < oldest_kept_day and item.id not in protected]
    return tuple(reversed(removed))


@dataclass(frozen=True)
class StoredItem:
    """Something that takes up room; `used` is when it was written or last used, with a time zone."""

    key: str
    size_bytes: int
    used: datetime


def over_budget(
    items: Iterable[StoredItem],
    *,
    budget_bytes: int,
    needed: Collection[str] = (),
    used_before: datetime | None = None,
) -> tuple[StoredItem, ...]:
    """Decide what to remove so that the rest takes no more than `budget_bytes`, which may not be possible.

    Args:
        items: All that there is.
        budget_bytes: How much may stay.
        needed: The keys of what must stay.
        used_before: What was used at that time or later must stay too: a build may be about to need it.

    Returns:
        No more than it takes, the item that was used longest ago first (by key within the same time).
    """
    oldest_first = sorted(items, key=lambda item: (item.used, item.key))
    excess_bytes = sum(item.size_bytes for item in oldest_first) - budget_bytes
    removed: list[StoredItem] = []
    for item in oldest_first:
        if excess_bytes <= 0:
            break
        if item.key not in needed and (used_before is None or item.used < used_before):
            removed.append(item)
            excess_bytes -= item.size_bytes
    return tuple(removed)
