"""`coreimage keys export`: take keyrings to the machine with the masters."""

from __future__ import annotations

from pathlib import Path

import click

from coreimage.cli.keys import show_medium
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@pass_settings
def export(settings: Settings, folder: Path) -> None:
    """Write the keyrings to FOLDER that masters on another machine must sign.

    \b
    Example:
      coreimage keys export /media/to-sign
    """
    from coreimage.system_image import export_keyrings  # noqa: PLC0415

    show_medium(settings, export_keyrings(settings.channel_tree(), folder), "to be signed")
