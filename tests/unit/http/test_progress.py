from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from coreimage import logs
from coreimage.http.progress import short_name, show_each_file, show_total
from coreimage.logs import decimal_size


@pytest.fixture(autouse=True)
def _terminal() -> Iterator[None]:
    root = logging.getLogger("coreimage")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before


def test_many_files_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.show(logging.INFO)
    with show_total("3 packages", 3_000_000) as shown:
        for name in "abc":
            shown.start(name, 1_000_000)(1_000_000)
            shown.finish(name)
    assert capsys.readouterr().err.splitlines()[0].startswith("  3 packages: 3.0 MB at ")


def test_each_file_is_a_line_unless_it_is_tiny(capsys: pytest.CaptureFixture[str]) -> None:
    logs.show(logging.INFO)
    shown = show_each_file()
    for name, size_bytes in ((f"ubuntu-{'0123456789ab' + 'f' * 52}.tar.xz", 5_000), ("tiny", 500)):
        shown.start(name, size_bytes)(size_bytes)
        shown.finish(name)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("  ubuntu-0123456789ab.tar.xz: 5.0 kB at ")


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (logging.DEBUG, ["told", "room n=1", "bad"]),
        (logging.INFO, ["told", "bad"]),
        (logging.WARNING, ["bad"]),
    ],
)
def test_the_terminal_shows_the_story(level: int, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    logs.show(level)
    logs.story.info("told")
    room = structlog.get_logger("coreimage.room")
    room.info("room", n=1)
    room.warning("bad")
    assert capsys.readouterr().err.splitlines() == shown


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (3_900_000_000, "3.9 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes(size_bytes: float, text: str) -> None:
    assert decimal_size(size_bytes) == text


def test_names_without_a_digest_stay() -> None:
    assert short_name("version-1.tar.xz") == "version-1.tar.xz"
