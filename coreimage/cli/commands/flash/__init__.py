"""`coreimage flash`: bootable images, in the words of `ubuntu-device-flash`."""

from __future__ import annotations

import os
from typing import Any

import click

from coreimage.cli.command_folder import CommandFolder
from coreimage.cli.removed import refuse_removed, removed_option


class _FlashCommands(CommandFolder):
    """The commands of `flash`, and those that ubuntu-device-flash had here."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command; `query` is that of the top. Raises UsageError for what was removed."""
        if name == "query":
            from coreimage.cli.commands.query import query  # noqa: PLC0415

            return query
        if name in {"personal", "touch"}:
            refuse_removed(name)
        return super().get_command(context, name)


@click.group(cls=_FlashCommands, package=__name__)
@click.option("--server", metavar="URL|DIR", help="As the same option of the command that follows.")
@click.option("--revision", type=int, help="As the same option of the command that follows.")
@click.option("--download-only", is_flag=True, help="As the same option of the command that follows.")
@click.option("--clean-cache", is_flag=True, help="As the same option of the command that follows.")
@click.option("-v", "--verbose", is_flag=True, help="As the same option of the command that follows.")
@removed_option("--tls-skip-verify", is_flag=True)
@click.pass_context
def flash(context: click.Context, /, **common: Any) -> None:
    """Make images of what channels offer.

    \b
    Example:
      coreimage flash core 13 --channel edge --output x86.img
    """
    if os.environ.get("MANPAGE"):
        refuse_removed("MANPAGE")
    given = {name: value for name, value in common.items() if value}
    context.default_map = {"core": given, "query": given}
