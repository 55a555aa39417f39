"""`coreimage down`: end what `coreimage up` started."""

from __future__ import annotations

import click

from coreimage.cli.commands.up import find_installation
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@pass_settings
def down(settings: Settings) -> None:
    """End what `coreimage up` started. Runs that go on are ended; their data stays, and a retry goes on from there.

    \b
    Example:
      coreimage down
    """
    stopped = find_installation(settings).stop()
    click.echo("Ended; the data is still in var/up" if stopped else "Nothing is running", err=settings.as_json)
