"""The operations of the room under one name, without loading what nobody asked for."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from coreimage import system_image


def test_every_name_is_found_where_the_type_checker_finds_it() -> None:
    tree = ast.parse(Path(system_image.__file__).read_text())
    imported = {
        (alias.name, str(node.module))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("coreimage.")
        for alias in node.names
    }
    assert {name for name, _ in imported} == set(system_image.__all__)
    for name, module in imported:
        assert getattr(system_image, name) is getattr(sys.modules[module], name)


def test_a_name_that_there_is_not_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="create_chanel"):
        system_image.create_chanel  # type: ignore[attr-defined]  # noqa: B018
