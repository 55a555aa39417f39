from __future__ import annotations

import click
import pytest

from coreimage.cli.app import cli, run
from coreimage.cli.commands.man import manual
from tests.unit.cli.commands import commands


def test_the_manual_has_every_command_and_option() -> None:
    text = manual(cli).replace("\\-", "-")
    for words, command in commands(cli):
        assert f".SS {' '.join(['coreimage', *words])} " in text
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        assert [name for option in options for name in option.opts if name.startswith("--") and name not in text] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_COREIMAGE_COMPLETE" in capsys.readouterr().out


def test_words_are_completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_COREIMAGE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "coreimage flash core --enable")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit):
        run([])
    assert "--enable-ssh" in capsys.readouterr().out
