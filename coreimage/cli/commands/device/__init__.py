"""`coreimage device`: which devices a channel has."""

from __future__ import annotations

import click

from coreimage.cli.command_folder import CommandFolder


@click.group(cls=CommandFolder, package=__name__)
def device() -> None:
    """Change the devices of a channel.

    \b
    Example:
      coreimage device create debian-core/13/stable generic_amd64
    """
