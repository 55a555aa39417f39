"""`coreimage phase`: offer the newest version to some of the devices."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.options import device_option
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("channel")
@click.argument("percentage", type=click.IntRange(0, 100), metavar="P")
@device_option
@click.option("--version", type=int, metavar="N", help="Fail unless N is still the newest version.")
@pass_settings
def phase(settings: Settings, channel: str, percentage: int, device: str, version: int | None) -> None:
    """Offer the newest version of CHANNEL to P percent of the devices; 0 withdraws it, 100 is all.

    \b
    Example:
      coreimage phase debian-core/13/stable 50 --device generic_amd64
    """
    from coreimage.system_image import set_phase  # noqa: PLC0415

    change = set_phase(settings.channel_tree(), channel, device, percentage, version=version)
    finish_change(
        settings, change, f"{channel} for {device}: version {change.version} for {percentage} % of the devices"
    )
