from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, Field

from coreimage.errors import ConfigError
from coreimage.model import Value
from coreimage.project.yaml_document import known_keys, load_yaml


def _even(number: int) -> int:
    if number % 2:
        raise ValueError("must be even")
    return number


class Leaf(Value):
    name: str = ""
    first_size: int = Field(default=0, alias="first-size")
    even: Annotated[int, AfterValidator(_even)] = 0


class Tree(Value):
    leaf: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    table: dict[str, tuple[Leaf, ...] | None] = Field(default_factory=dict)


def problems(text: str, *, secret: bool = False) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as refusal:
        load_yaml(text, "t.yaml", resolution="look").validate(Tree, secret=secret)
    assert refusal.value.resolution == "look"
    return [(problem.line, problem.key, problem.message) for problem in refusal.value.problems]


def test_every_problem_has_its_line_its_place_and_the_near_miss() -> None:
    text = """
leaf: {evn: 2}
leaves:
  - name: oak
    first-sise: 1
  - even: 3
table:
  beech:
    - first-size: much
twig: 1
"""
    assert problems(text) == [
        (2, "leaf.evn", "unknown key; did you mean 'even'?"),
        (5, "leaves.oak.first-sise", "unknown key; did you mean 'first-size'?"),
        (6, "leaves.1.even", "must be even (found 3)"),
        (
            9,
            "table.beech.0.first-size",
            "Input should be a valid integer, unable to parse string as an integer (found 'much')",
        ),
        (10, "twig", "unknown key"),
    ]
    assert "much" not in str(problems(text, secret=True))


def test_a_key_that_stands_twice_is_refused_wherever_it_is() -> None:
    text = "leaf:\n  name: oak\n  even: 2\n  name: elm\nleaves: [{even: 2, even: 4}]\nleaf: {}\n"
    assert problems(text) == [
        (4, "leaf.name", "stands twice, first in line 2"),
        (5, "leaves.0.even", "stands twice, first in line 5"),
        (6, "leaf", "stands twice, first in line 1"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("leaf:\n  name: [\n", 3),
        ("leaf: 'oak", 1),
        ("a: 1\nleaf: \x01", 2),
        ("a: 1\nleaf: {name: 2026-02-30}", 2),
        ("a: *b", 1),
        ("--- 1\n--- 2", 2),
        ("[" * 1000, 0),
        ("!!python/object:os.system x", 1),
        ("- {[a]: 1}", 1),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    ((found, key, _),) = problems(text)
    assert (found, key) == (line, "yaml")


@pytest.mark.parametrize("text", ["", "[]", "words", "3"])
def test_a_document_of_another_kind_is_refused(text: str) -> None:
    ((_, key, message),) = problems(text)
    assert (key, message.partition(" (")[0]) == ("(top)", "is not a mapping of keys to values")


def test_aliases_are_looked_at_once() -> None:
    text = "a0: &a0 {x: 1, x: 2}\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
    assert problems(text) == [(1, "a0.x", "stands twice, first in line 1")]


@given(st.text(alphabet="ab:{}[]&*!<>|-'\"#%\n \t0123.", max_size=40))
def test_nothing_but_a_config_error_comes_of_any_text(text: str) -> None:
    with suppress(ConfigError):
        load_yaml(text, "t.yaml", resolution="look").validate(Tree)


def test_known_keys_follow_tables_lists_and_choices() -> None:
    assert known_keys(Tree, []) == ["leaf", "leaves", "table"]
    paths: list[list[str | int]] = [["leaf"], ["leaves", 0], ["table", "leaf", 3]]
    for path in paths:
        assert known_keys(Tree, path) == ["name", "first-size", "even"]
    assert known_keys(Tree, ["leaf", "name", "x"]) == known_keys(Tree, ["twig"]) == []


def test_a_part_of_a_document_keeps_its_lines() -> None:
    document = load_yaml("other: 1\nbelow:\n  leaf:\n    even: 1\n", "t.yaml", resolution="look")
    with pytest.raises(ConfigError, match=r"t\.yaml:4: leaf\.even: must be even"):
        document.part("below").validate(Tree)
