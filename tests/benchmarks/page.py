"""How figures are written: Markdown tables of ratios, and where they were measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Row:
    """`ratio`, shown with three digits that count, is of what was measured to its peer or limit; `reach` says what it
    is to be, where that was promised."""

    figure: str
    ratio: float
    measured: str
    reach: str = ""


def ratios(rows: Sequence[Row]) -> str:
    cells = [(row.figure, f"{row.ratio:#.3g}", row.measured, row.reach) for row in rows]
    return table(("figure", "ratio", "measured", "to reach"), cells)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured_on(name: str) -> str:
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"Measured on {datetime.now(UTC):%Y-%m-%d} by `make benchmark ONLY={name}` ({machine})."
