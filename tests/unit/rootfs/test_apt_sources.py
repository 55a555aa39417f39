from __future__ import annotations

import pytest

from coreimage.errors import UsageError
from coreimage.rootfs.apt_sources import AptSource, mirror_for, parse_deb822, parse_one_line

MAIN = AptSource("http://a.example/debian", "bookworm", ("main",))
SECURITY = AptSource("http://s.example/debian-security", "bookworm-security", ("main",))


def test_one_line_sources_with_options_and_comments() -> None:
    text = """# deb http://no.example/debian x main
deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian/ bookworm main contrib # own
deb-src http://a.example/debian bookworm main
deb http://flat.example/ ./
nonsense
"""
    assert parse_one_line(text) == [
        AptSource("http://a.example/debian", "bookworm", ("main", "contrib")),
        AptSource("http://flat.example", "./", ()),
    ]


def test_deb822_sources_with_several_uris_and_disabled_stanzas() -> None:
    text = """Types: deb deb-src
URIs: http://a.example/debian http://b.example/debian
Suites: bookworm bookworm-updates
Components: main
# a comment
Signed-By: /k.gpg

Types: deb
Enabled: no
URIs: http://off.example
Suites: bookworm
Components: main

Types: deb-src
URIs: http://src.example
Suites: bookworm
Components: main
"""
    found = parse_deb822(text)
    assert [(source.uri, source.suite) for source in found] == [
        ("http://a.example/debian", "bookworm"),
        ("http://a.example/debian", "bookworm-updates"),
        ("http://b.example/debian", "bookworm"),
        ("http://b.example/debian", "bookworm-updates"),
    ]


@pytest.mark.parametrize(
    ("suite", "uri"),
    [
        ("bookworm", MAIN.uri),
        ("trixie", MAIN.uri),
        ("trixie-updates", MAIN.uri),
        ("trixie-security", SECURITY.uri),
    ],
)
def test_another_suite_of_the_distribution_takes_the_same_mirror(suite: str, uri: str) -> None:
    other = AptSource("http://third.example/repo", "bookworm", ("main",))
    assert mirror_for([other, SECURITY, MAIN], "debian", suite) == uri


def test_no_fitting_source_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="name no mirror for ubuntu noble"):
        mirror_for([MAIN, SECURITY], "ubuntu", "noble")
