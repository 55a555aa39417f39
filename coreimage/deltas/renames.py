"""Which old file a new name continues, as `lib-1.0.so` is continued by `lib-1.1.so`. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from coreimage.client.tree import Entry

_NUMBERS = re.compile(rb"\d+")


class Renames:
    """The files of an old tree that the new one lacks, to be found by names that are like theirs."""

    def __init__(self, old: Sequence[Entry], kept: Collection[bytes]) -> None:
        """Remember the files of `old` whose names are not `kept` in the new tree."""
        self._old = old
        self._by_name: dict[bytes, list[int]] = {}
        self._by_last_part: dict[bytes, list[int]] = {}
        for number, entry in enumerate(old):
            if entry.kind == "file" and entry.name not in kept:
                self._by_name.setdefault(without_numbers(entry.name), []).append(number)
                self._by_last_part.setdefault(without_numbers(_last_part(entry.name)), []).append(number)

    def find(self, name: bytes) -> int | None:
        """Return the number of the old file that `name` continues, if there is one.

        Its name differs in numbers alone, or its last part does. Of several, the likest is taken: `raid10` is no
        version of `raid1` where there was a `raid10`.
        """
        last_part = _last_part(name)
        candidates = self._by_name.get(without_numbers(name)) or self._by_last_part.get(without_numbers(last_part), [])
        words = set(without_numbers(name).split(b"/"))

        def likeness(number: int) -> tuple[bool, int]:
            other = self._old[number].name
            return _last_part(other) == last_part, len(words & set(without_numbers(other).split(b"/")))

        return max(candidates, key=likeness, default=None)


def without_numbers(name: bytes) -> bytes:
    """Return what names of two versions of one thing have in common."""
    return _NUMBERS.sub(b"0", name)


def _last_part(name: bytes) -> bytes:
    return name.rpartition(b"/")[2]
