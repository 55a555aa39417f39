"""Pages of values: what is quoted, where links lead, how high the bars are."""

from __future__ import annotations

from coreimage.packages import PackageChange
from coreimage.pages.chart import HEIGHT, Point, chart_of
from coreimage.pages.content import Changes, Channel, Device, Download, Verdict, Version
from coreimage.pages.render import link, render


def version(**given: object) -> Version:
    fields: dict[str, object] = {
        "number": 1,
        "created": None,
        "build_id": "",
        "build_page": "",
        "builds_page": "",
        "size_bytes": 10,
        "deltas": (),
        "phased_percentage": None,
        "pinned": None,
        "verdict": Verdict(None, "nothing is known"),
        "changes": Changes("", None),
        "image": None,
        "files": (),
    }
    return Version(**{**fields, **given})  # type: ignore[arg-type]


def test_nothing_from_the_tree_becomes_markup() -> None:
    evil = '<script>alert(1)</script>"&'
    changes = Changes(evil, (PackageChange(name=evil, old="1", new="2"),))
    image = Download(evil, f"images/{evil}", 1, "0" * 64, evil)
    shown = version(verdict=Verdict(False, evil), changes=changes, image=image, files=(image,), build_id=evil)
    page = render(Device(evil, evil, "system-image/a/index.html", (shown,))).html.decode()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5


def test_links_are_relative_and_quoted() -> None:
    assert link("index.html", "index.html") == "index.html"
    assert link("images/a b/#1", "system-image/c/d/index.html") == "../../../images/a%20b/%231"


def test_a_phase_and_a_redirect_are_told() -> None:
    assert (
        b"10 % of devices"
        in render(Device("c", "d", "system-image/c/d/index.html", (version(phased_percentage=10),))).html
    )
    channel = Channel("old", "system-image/old/index.html", (), kind="redirect", target="gone")
    assert b"Leads to gone" in b" ".join(render(channel).html.split())


def test_bars() -> None:
    chart = chart_of([Point("1", 50), Point("2", 200, 100), Point("3", 100, 0)])
    assert chart
    assert [bar.height / HEIGHT for bar in chart.bars] == [0.25, 1.0, 0.5]
    assert [bar.part_height / HEIGHT for bar in chart.bars] == [0, 0.5, 0]
    assert all(bar.y + bar.height == bar.part_y + bar.part_height == HEIGHT for bar in chart.bars)
    assert chart_of([Point("1", 50)]) is None
    many = chart_of([Point(str(number), 1) for number in range(100)])
    assert many
    assert (many.first, many.last) == ("60", "99")
    assert chart_of([Point("1", 0), Point("2", 0)])
