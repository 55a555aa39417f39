"""`coreimage channel`: which channels there are, and changes of them."""

from __future__ import annotations

import click

from coreimage.cli.command_folder import CommandFolder


@click.group(cls=CommandFolder, package=__name__)
def channel() -> None:
    """Change channels: the named streams of versions that devices follow.

    \b
    Example:
      coreimage channel list
      coreimage channel create debian-core/13/stable
    """
