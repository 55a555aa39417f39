"""Turns what a page shows into HTML: one template each, the same frame and style around all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from coreimage.logs import decimal_size
from coreimage.pages.chart import HEIGHT, WIDTH, Chart, Point, chart_of
from coreimage.pages.site import Builds, Device
from coreimage.publication.layout import PAGE


@dataclass(frozen=True)
class Page:
    key: str
    html: bytes


def render(template: str, shown: Any, *, key: str = "") -> Page:
    """`shown` is called `it` in the template; without a `key` the page goes where `it` says."""
    place = key or shown.page
    text = (
        _environment()
        .get_template(f"{template}.html")
        .render(it=shown, here=place, chart=_chart(shown), width=WIDTH, height=HEIGHT, index=PAGE)
    )
    return Page(place, text.encode())


def link(target: str, here: str) -> str:
    """From one key of the store to another, relative: pages work below any address, and from a folder on disk."""
    up = "../" * here.count("/")
    return up + quote(target)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("coreimage.pages", "files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=decimal_size, day=_day, link=link)
    return environment


def _day(day: date | None) -> str:
    """`23 November 2026`."""
    return "" if day is None else f"{day.day} {day:%B %Y}"


def _chart(shown: Any) -> Chart | None:
    match shown:
        case Device(versions=versions):
            points = [
                Point(
                    f"version {version.number}",
                    version.size_bytes,
                    version.smallest_delta.size_bytes if version.smallest_delta else None,
                )
                for version in reversed(versions)
            ]
        case Builds(lines=lines):
            points = [Point(line.build_id, line.size_bytes) for line in reversed(lines)]
        case _:
            points = []
    return chart_of(points)
