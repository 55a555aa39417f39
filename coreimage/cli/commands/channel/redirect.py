"""`coreimage channel redirect`: send devices to another channel."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("name")
@click.argument("target")
@click.option("--device", metavar="D", help="Only this device of NAME.")
@pass_settings
def redirect(settings: Settings, name: str, target: str, device: str | None) -> None:
    """Send the devices of NAME to channel TARGET with their next update.

    \b
    Example:
      coreimage channel redirect debian-core/12/stable debian-core/13/stable
    """
    from coreimage.system_image import redirect_channel  # noqa: PLC0415

    change = redirect_channel(settings.channel_tree(), name, target, device=device)
    finish_change(settings, change, f"channel {name} leads to {target}")
