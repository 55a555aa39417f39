"""`coreimage device create`: give a channel a device."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("channel")
@click.argument("name")
@pass_settings
def create(settings: Settings, channel: str, name: str) -> None:
    """Give CHANNEL a device NAME, without versions yet.

    \b
    Example:
      coreimage device create debian-core/13/stable generic_amd64
    """
    from coreimage.system_image import create_device  # noqa: PLC0415

    change = create_device(settings.channel_tree(), channel, name)
    finish_change(settings, change, f"{channel} has device {name}")
