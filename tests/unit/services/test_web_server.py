"""What the web server decides without a network: keys, ranges, media types."""

from __future__ import annotations

import pytest

from coreimage.services.web_server import byte_range, key_of, media_type


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=5-99", (5, 10)),
        ("bytes=10-", (0, 0)),
        ("bytes=7-3", (0, 0)),
        ("bytes=-0", (0, 0)),
        (f"bytes={'9' * 5000}-", (0, 0)),
        (f"bytes=2-{'9' * 5000}", (2, 10)),
        (f"bytes=-{'9' * 5000}", (0, 10)),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("lines=1-2", None),
    ],
)
def test_ranges(header: str, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == expected


def test_keys() -> None:
    assert key_of("/channels.json") == "system-image/channels.json"
    assert key_of("/images/a+b") == "images/a+b"
    assert key_of("/") == ""
    assert key_of("/index.html") == "index.html"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("cdimage/a/20261123/SHA256SUMS", "text/plain; charset=utf-8"),
        ("cdimage/a/20261123/SHA256SUMS.gpg", "text/plain; charset=utf-8"),
        ("cdimage/a/20261123/x.manifest", "text/plain; charset=utf-8"),
        ("system-image/channels.json", "application/json"),
        ("index.html", "text/html"),
        ("system-image/pool/ubuntu-0.tar.xz", "application/octet-stream"),
        ("system-image/none", "application/octet-stream"),
    ],
)
def test_browsers_show_text_and_download_the_rest(key: str, expected: str) -> None:
    assert media_type(key) == expected
