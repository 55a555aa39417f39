"""What to keep and what to remove, decided once for builds, image versions and disk images. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Generic, Protocol, TypeVar

from coreimage.errors import UsageError


class _Ordered(Hashable, Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


Id = TypeVar("Id", bound=_Ordered)


@dataclass(frozen=True)
class Dated(Generic[Id]):
    """Something that retention judges: `id` is what newer and older mean (greater is newer), `day` is UTC."""

    id: Id
    day: date


def expired(
    items: Iterable[Dated[Id]], *, protected: Collection[Id], keep_count: int, keep_days: int, today: date
) -> tuple[Dated[Id], ...]:
    """What to remove, oldest first.

    An item stays if any rule says so: it is `protected`, or among the newest `keep_count`, or younger than `keep_days`
    (1: only today's). Protected items count among the newest. Raises UsageError for a negative number.
    """
    if keep_count < 0 or keep_days < 0:
        raise UsageError(f"cannot keep {min(keep_count, keep_days)}", resolution="retention counts from 0")
    newest_first = sorted(items, key=lambda item: item.id, reverse=True)
    oldest_kept_day = today - timedelta(days=keep_days) + timedelta(days=1)
    removed = [item for item in newest_first[keep_count:] if item.day < oldest_kept_day and item.id not in protected]
    return tuple(reversed(removed))
