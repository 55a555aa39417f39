"""`coreimage promote`: make a version of one channel the next of another."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.options import delta_bases_option, device_option, phase_option
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@device_option
@click.option("--version", type=int, metavar="N", help="The version of FROM [its newest].")
@phase_option
@delta_bases_option
@pass_settings
def promote(
    settings: Settings,
    source: str,
    target: str,
    device: str,
    version: int | None,
    phase: int | None,
    delta_bases: int | None,
) -> None:
    """Make a version of channel FROM the next one of channel TO: the same bytes, tested as they are.

    \b
    Example:
      coreimage promote debian-core/13/edge debian-core/13/stable --device generic_amd64 --phase 10
    """
    from coreimage import system_image  # noqa: PLC0415

    change = system_image.promote(
        settings.channel_tree(),
        source,
        target,
        device,
        version=version,
        phase=phase,
        delta_bases=settings.delta_bases(target, delta_bases),
    )
    finish_change(settings, change, f"{target} for {device}: version {change.version}")
