from __future__ import annotations

import pytest

from coreimage.errors import UsageError
from coreimage.model import size_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20G", 20 * 10**9),
        ("1.5 TB", 1500 * 10**9),
        ("500000", 500_000),
        ("7kb", 7000),
        (" 4M ", 4_000_000),
        ("1GiB", 1 << 30),
        ("0", 0),
    ],
)
def test_sizes_are_decimal_unless_they_say_otherwise(text: str, expected: int) -> None:
    assert size_bytes(text, "--max-size") == expected


@pytest.mark.parametrize("text", ["", "G", "20 X", "-1G", "1.G", "20 G of it", "1e3", "lots"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--max-size: {text!r} is not a size"):
        size_bytes(text, "--max-size")
