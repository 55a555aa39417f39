"""Rendering of pages to HTML, by one template for each kind of page in a common frame and style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Literal
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from coreimage.logs import decimal_size
from coreimage.pages.chart import HEIGHT, WIDTH, Chart, Point, chart_of
from coreimage.pages.content import Build, Builds, Channel, Device
from coreimage.publication.layout import PAGE


@dataclass(frozen=True)
class Page:
    """A finished page, and the store's key that it is written to."""

    key: str
    html: bytes


def render(content: Build | Builds | Channel | Device) -> Page:
    """Render the page of a build, of a tree's builds, of a channel or of a device."""
    template: Literal["build", "builds", "channel", "device"]
    match content:
        case Build():
            template = "build"
        case Builds():
            template = "builds"
        case Channel():
            template = "channel"
        case Device():
            template = "device"
    return _page(template, content.page, content)


def render_index(channels: Sequence[Channel]) -> Page:
    """Render the index, from which all other pages are reached."""
    return _page("index", PAGE, channels)


def link(target: str, here: str) -> str:
    """Return the relative link from the page `here` to a key: pages work below any address, and from a folder."""
    return "../" * here.count("/") + quote(target)


def _page(template: str, key: str, content: object) -> Page:
    """Render a template, in which the content is called `it`."""
    html = (
        _environment()
        .get_template(f"{template}.html")
        .render(it=content, here=key, chart=_chart(content), width=WIDTH, height=HEIGHT, index=PAGE)
    )
    return Page(key, html.encode())


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
    """Write a day such as `23 November 2026`."""
    return "" if day is None else f"{day.day} {day:%B %Y}"


def _chart(content: object) -> Chart | None:
    points: list[Point] = []
    if isinstance(content, Device):
        for version in reversed(content.versions):
            delta = version.smallest_delta
            points.append(Point(f"version {version.number}", version.size_bytes, delta.size_bytes if delta else None))
    elif isinstance(content, Builds):
        points = [Point(line.build_id, line.size_bytes) for line in reversed(content.lines)]
    return chart_of(points)
