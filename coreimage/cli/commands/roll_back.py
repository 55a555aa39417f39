"""`coreimage roll-back`: publish an older version again."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.options import delta_bases_option, device_option, phase_option
from coreimage.cli.settings import Settings, pass_settings


@click.command("roll-back")
@click.argument("channel")
@device_option
@click.option("--to", "version", required=True, type=int, metavar="N", help="The older version whose content it gets.")
@phase_option
@delta_bases_option
@pass_settings
def roll_back(
    settings: Settings, channel: str, device: str, version: int, phase: int | None, delta_bases: int | None
) -> None:
    """Publish the content of an older version of CHANNEL again, as a new version.

    \b
    Example:
      coreimage roll-back debian-core/13/stable --device generic_amd64 --to 4
    """
    from coreimage import system_image  # noqa: PLC0415

    bases = settings.delta_bases(channel, delta_bases)
    tree = settings.channel_tree()
    change = system_image.roll_back(tree, channel, device, version=version, phase=phase, delta_bases=bases)
    finish_change(settings, change, f"{channel} for {device}: version {change.version} is what {version} was")
