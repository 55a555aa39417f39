"""`coreimage device remove`: take a device from a channel."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("channel")
@click.argument("name")
@pass_settings
def remove(settings: Settings, channel: str, name: str) -> None:
    """Take device NAME from CHANNEL. Its version numbers are never used again.

    \b
    Example:
      coreimage device remove debian-core/13/stable pc_amd64
    """
    from coreimage.system_image import remove_device  # noqa: PLC0415

    change = remove_device(settings.channel_tree(), channel, name)
    finish_change(settings, change, f"{channel} has no device {name}")
