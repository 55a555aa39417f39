"""What the documentation names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", sorted(REPOSITORY.glob("docs/**/*.md")), ids=lambda page: page.stem)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    named = _TEST.findall(page.read_text("utf-8"))
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in _text(REPOSITORY / file)] == []
    assert page.stem != "cdimage" or len(named) > 20


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""
