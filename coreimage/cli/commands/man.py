"""`coreimage man`: the manual page, made from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

_TITLE = '.TH COREIMAGE 1 "" "coreimage" "User commands"\n'


@click.command()
@click.pass_context
def man(context: click.Context) -> None:
    """Print the manual page of all commands.

    \b
    Example:
      coreimage man > ~/.local/share/man/man1/coreimage.1
    """
    root = context.find_root().command
    click.echo(manual(root), nl=False)


def manual(root: click.Command) -> str:
    """Return the man(7) page of a command and all below it."""
    pages = "".join(_section(words, command) for words, command in _commands(root, ("coreimage",)))
    return f"{_TITLE}.SH NAME\ncoreimage \\- {_roff(_summary(root))}\n.SH COMMANDS\n{pages}"


def _commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child and not child.hidden:
                yield from _commands(child, (*words, name))


def _section(words: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(words))
    usage = " ".join(command.collect_usage_pieces(context))
    text, _, example = (command.help or "").partition("\b\nExample:\n")
    shown = f".SS {_roff(' '.join(words))} {_roff(usage)}\n{_paragraphs(text)}"
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record:
            shown += f".TP\n.B {_roff(record[0])}\n{_roff(record[1])}\n"
    lines = "".join(f"{_roff(line.strip())}\n" for line in example.splitlines() if line.strip())
    return shown + (f".PP\nExample:\n.PP\n.nf\n.RS\n{lines}.RE\n.fi\n" if lines else "")


def _paragraphs(text: str) -> str:
    return "".join(
        f".PP\n{_roff(' '.join(paragraph.split()))}\n" for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()
    )


def _summary(command: click.Command) -> str:
    return (command.help or "").split("\n\n")[0].strip().rstrip(".").lower()


def _roff(text: str) -> str:
    """Escape the characters that are special in roff (groff(7))."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("\n", " ")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
