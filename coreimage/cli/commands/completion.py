"""`coreimage completion`: what a shell reads to complete our command lines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Example:
      coreimage completion bash > ~/.local/share/bash-completion/completions/coreimage
    """
    completer = get_completion_class(shell)
    assert completer is not None  # noqa: S101
    root = context.find_root().command
    click.echo(completer(root, {}, "coreimage", "_COREIMAGE_COMPLETE").source())
