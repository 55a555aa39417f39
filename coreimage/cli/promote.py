"""`coreimage promote`, `roll-back`, `tag` and `phase`: new versions of what is published, and who gets them."""

from __future__ import annotations

from typing import Any

import click

from coreimage.cli.publishing import delta_bases_option, device_option, phase_option, publishing, show_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@device_option
@click.option("--version", type=int, metavar="N", help="The version of FROM [its newest].")
@phase_option
@delta_bases_option
@pass_settings
def promote(settings: Settings, source: str, target: str, delta_bases: int | None, **of: Any) -> None:
    """Make a version of channel FROM the next one of channel TO: the same bytes, tested as they are.

    \b
    Example:
      coreimage promote debian-core/13/edge debian-core/13/stable --device generic_amd64 --phase 10
    """
    from coreimage import system_image  # noqa: PLC0415

    bases = settings.delta_bases(target, delta_bases)
    change = system_image.promote(source, target, **of, delta_bases=bases, **publishing(settings))
    show_change(settings, change, f"{target} for {change.device}: version {change.version}")


@click.command("roll-back")
@click.argument("channel")
@device_option
@click.option("--to", "version", required=True, type=int, metavar="N", help="The older version whose content it gets.")
@phase_option
@delta_bases_option
@pass_settings
def roll_back(settings: Settings, channel: str, version: int, delta_bases: int | None, **of: Any) -> None:
    """Publish the content of an older version of CHANNEL again, as a new version.

    \b
    Example:
      coreimage roll-back debian-core/13/stable --device generic_amd64 --to 4
    """
    from coreimage import system_image  # noqa: PLC0415

    bases = settings.delta_bases(channel, delta_bases)
    change = system_image.roll_back(channel, version=version, **of, delta_bases=bases, **publishing(settings))
    show_change(settings, change, f"{channel} for {change.device}: version {change.version} is what {version} was")


@click.command()
@click.argument("channel")
@click.argument("tag", metavar="TAG")
@device_option
@delta_bases_option
@pass_settings
def tag(settings: Settings, channel: str, tag: str, device: str, delta_bases: int | None) -> None:
    """Publish the newest version of CHANNEL again under a TAG, which devices show; an empty TAG takes it away.

    \b
    Example:
      coreimage tag debian-core/13/stable 13.2 --device generic_amd64
    """
    from coreimage import system_image  # noqa: PLC0415

    bases = settings.delta_bases(channel, delta_bases)
    change = system_image.tag_image(channel, device, tag, delta_bases=bases, **publishing(settings))
    show_change(settings, change, f"{channel} for {device}: version {change.version} is tagged {tag!r}")


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
    from coreimage import system_image  # noqa: PLC0415

    change = system_image.set_phase(channel, device, percentage, version=version, **publishing(settings))
    show_change(settings, change, f"{channel} for {device}: version {change.version} for {percentage} % of the devices")
