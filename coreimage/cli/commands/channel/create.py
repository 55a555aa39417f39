"""`coreimage channel create`: create a channel."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("name")
@pass_settings
def create(settings: Settings, name: str) -> None:
    """Create channel NAME, without devices yet.

    \b
    Example:
      coreimage channel create debian-core/13/stable
    """
    from coreimage.system_image import create_channel  # noqa: PLC0415

    change = create_channel(settings.channel_tree(), name)
    finish_change(settings, change, f"channel {name} created")
