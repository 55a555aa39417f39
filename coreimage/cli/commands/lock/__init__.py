"""`coreimage lock`: exactly what a channel is built of."""

from __future__ import annotations

import click

from coreimage.cli.command_folder import CommandFolder


class _ShowByDefault(CommandFolder):
    """A group whose first word may be a channel: `lock CHANNEL` is `lock show CHANNEL`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        known = {*self.list_commands(context), "-h", "--help"}
        return super().parse_args(context, args if not args or args[0] in known else ["show", *args])


@click.group(cls=_ShowByDefault, package=__name__)
def lock() -> None:
    """Show, renew and compare locks: which packages, exactly, a channel is built of.

    \b
    Example:
      coreimage lock debian-core/13/edge
      coreimage lock debian-core/13/edge --refresh
      coreimage lock diff previous current --channel debian-core/13/edge
    """
