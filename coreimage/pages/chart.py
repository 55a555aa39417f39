"""Bars of sizes over versions. Pure geometry; the template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 150
_BARS = 40
"""So many of the newest fit on a phone."""
_PLACES = 12
"""A few bars do not fill the width."""
_GAP = 0.25
"""Of a bar's place."""
_LEAST = 1.5
"""A bar that is not empty can be seen."""


@dataclass(frozen=True)
class Point:
    """What one bar stands for, and the smaller one in front of it (None: there is none)."""

    label: str
    size_bytes: int
    part_bytes: int | None = None


@dataclass(frozen=True)
class Bar:
    label: str
    x: float
    width: float
    y: float
    height: float
    part_y: float
    part_height: float


@dataclass(frozen=True)
class Chart:
    bars: tuple[Bar, ...]
    largest_bytes: int
    first: str
    last: str


def chart_of(points: Sequence[Point]) -> Chart | None:
    """Oldest first, from left to right; the newest that fit. None where one bar alone would say nothing."""
    shown = list(points)[-_BARS:]
    if len(shown) < 2:  # noqa: PLR2004
        return None
    largest = max(point.size_bytes for point in shown) or 1
    place = WIDTH / max(len(shown), _PLACES)
    bars = tuple(_bar(point, number * place, place, largest) for number, point in enumerate(shown))
    return Chart(bars, largest, shown[0].label, shown[-1].label)


def _bar(point: Point, x: float, place: float, largest: int) -> Bar:
    height, part = _height(point.size_bytes, largest), _height(point.part_bytes or 0, largest)
    return Bar(
        label=point.label,
        x=round(x + place * _GAP / 2, 1),
        width=round(place * (1 - _GAP), 1),
        y=round(HEIGHT - height, 1),
        height=round(height, 1),
        part_y=round(HEIGHT - part, 1),
        part_height=round(part, 1),
    )


def _height(size_bytes: int, largest: int) -> float:
    return max(HEIGHT * size_bytes / largest, _LEAST) if size_bytes else 0
