"""`coreimage channel show`: show a hidden channel in listings."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("name")
@pass_settings
def show(settings: Settings, name: str) -> None:
    """Show channel NAME in listings again.

    \b
    Example:
      coreimage channel show debian-core/13/edge
    """
    from coreimage.system_image import show_channel  # noqa: PLC0415

    change = show_channel(settings.channel_tree(), name)
    finish_change(settings, change, f"channel {name} shown")
