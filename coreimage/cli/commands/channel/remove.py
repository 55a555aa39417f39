"""`coreimage channel remove`: remove a channel."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("name")
@pass_settings
def remove(settings: Settings, name: str) -> None:
    """Remove channel NAME, and redirects to it. The next `coreimage gc` deletes its files.

    A channel that an alias follows is not removed.

    \b
    Example:
      coreimage channel remove debian-core/12/edge
    """
    from coreimage.system_image import remove_channel  # noqa: PLC0415

    change = remove_channel(settings.channel_tree(), name)
    finish_change(settings, change, f"channel {name} removed")
