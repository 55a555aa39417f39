"""`coreimage tag`: name the newest version."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.options import delta_bases_option, device_option
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("channel")
@click.argument("tag", metavar="TAG")
@device_option
@delta_bases_option
@pass_settings
def tag(settings: Settings, channel: str, tag: str, device: str, delta_bases: int | None) -> None:
    """Publish the newest version of CHANNEL again under a TAG, which devices show; an empty TAG removes it.

    \b
    Example:
      coreimage tag debian-core/13/stable 13.2 --device generic_amd64
    """
    from coreimage.system_image import tag_image  # noqa: PLC0415

    bases = settings.delta_bases(channel, delta_bases)
    change = tag_image(settings.channel_tree(), channel, device, tag, delta_bases=bases)
    finish_change(settings, change, f"{channel} for {device}: version {change.version} is tagged {tag!r}")
