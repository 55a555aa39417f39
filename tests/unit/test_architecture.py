"""The picture of the architecture is the architecture."""

from __future__ import annotations

from tests.harness.house import PICTURE, draw_house, read_house


def test_the_picture_is_that_of_the_imports() -> None:
    assert PICTURE.read_text("utf-8") == draw_house(read_house()), "draw it anew: python -m tests.harness.house"
