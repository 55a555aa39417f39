"""`coreimage channel hide`: hide a channel from listings."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("name")
@pass_settings
def hide(settings: Settings, name: str) -> None:
    """Hide channel NAME from listings. Its devices get updates as before.

    \b
    Example:
      coreimage channel hide debian-core/13/edge
    """
    from coreimage.system_image import hide_channel  # noqa: PLC0415

    change = hide_channel(settings.channel_tree(), name)
    finish_change(settings, change, f"channel {name} hidden")
