"""`coreimage keys`: the signing keys of this machine."""

from __future__ import annotations

import click

from coreimage.cli.command_folder import CommandFolder


@click.group(cls=CommandFolder, package=__name__)
def keys() -> None:
    """Make, show, replace and publish the keys that sign builds and channels.

    \b
    Example:
      coreimage keys init
    """
