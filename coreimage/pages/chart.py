"""Bar charts of sizes over versions. Pure geometry; the template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 150
_BAR_LIMIT = 40
"""How many bars fit on a phone."""
_PLACES_AT_LEAST = 12
"""A few bars do not fill the width."""
_GAP = 0.25
"""What of a bar's place stays empty."""
_HEIGHT_AT_LEAST = 1.5
"""So that a bar that is not empty can be seen."""


@dataclass(frozen=True)
class Point:
    """What one bar stands for, and the smaller bar in front of it (None: there is none)."""

    label: str
    size_bytes: int
    part_bytes: int | None = None


@dataclass(frozen=True)
class Bar:
    """A bar in the chart's own units, with the upper left corner as the origin."""

    label: str
    x: float
    width: float
    y: float
    height: float
    part_y: float
    part_height: float


@dataclass(frozen=True)
class Chart:
    """A bar chart, from left to right; `first` and `last` are the labels at the ends of its axis."""

    bars: tuple[Bar, ...]
    largest_bytes: int
    first: str
    last: str


def chart_of(points: Sequence[Point]) -> Chart | None:
    """Draw the newest points that fit; None where one bar alone would say nothing.

    Args:
        points: Oldest first.
    """
    shown = list(points)[-_BAR_LIMIT:]
    if len(shown) < 2:  # noqa: PLR2004
        return None
    largest_bytes = max(point.size_bytes for point in shown) or 1
    place = WIDTH / max(len(shown), _PLACES_AT_LEAST)
    bars = []
    for number, point in enumerate(shown):
        height, part_height = _height(point.size_bytes, largest_bytes), _height(point.part_bytes or 0, largest_bytes)
        bars.append(
            Bar(
                label=point.label,
                x=round(number * place + place * _GAP / 2, 1),
                width=round(place * (1 - _GAP), 1),
                y=round(HEIGHT - height, 1),
                height=round(height, 1),
                part_y=round(HEIGHT - part_height, 1),
                part_height=round(part_height, 1),
            )
        )
    return Chart(tuple(bars), largest_bytes, shown[0].label, shown[-1].label)


def _height(size_bytes: int, largest_bytes: int) -> float:
    return max(HEIGHT * size_bytes / largest_bytes, _HEIGHT_AT_LEAST) if size_bytes else 0
