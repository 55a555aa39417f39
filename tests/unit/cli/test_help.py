from __future__ import annotations

from pathlib import Path

import click
import pytest

from coreimage.cli.app import cli
from tests.unit.cli.commands import commands

REPOSITORY = Path(__file__).resolve().parents[3]
ALL = [pytest.param(words, command, id=" ".join(words) or "coreimage") for words, command in commands(cli)]


@pytest.mark.parametrize(("words", "command"), ALL)
def test_every_command_has_an_example_of_itself(words: tuple[str, ...], command: click.Command) -> None:
    shown = command.get_help(click.Context(command, info_name=" ".join(["coreimage", *words])))
    example = shown.partition("Example:\n")[2].partition("\n\n")[0]
    assert "coreimage" in example
    assert all(word in example for word in words)


@pytest.mark.parametrize(("words", "command"), ALL)
def test_every_option_is_explained(words: tuple[str, ...], command: click.Command) -> None:
    unexplained = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert unexplained == []


@pytest.mark.parametrize(("words", "command"), ALL)
def test_the_documentation_has_every_command_and_option(words: tuple[str, ...], command: click.Command) -> None:
    text = (REPOSITORY / "docs/commands.md").read_text("utf-8")
    if not isinstance(command, click.Group):
        assert f"`coreimage {' '.join(words)}" in text
    options = [name for option in command.params if isinstance(option, click.Option) for name in option.opts]
    assert [name for name in options if name.startswith("--") and name not in text] == []
