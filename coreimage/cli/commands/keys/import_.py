"""`coreimage keys import`: publish what the masters have signed."""

from __future__ import annotations

from pathlib import Path

import click

from coreimage.cli.keys import show_medium
from coreimage.cli.settings import Settings, pass_settings


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@pass_settings
def import_(settings: Settings, folder: Path) -> None:
    """Publish the keyrings in FOLDER that the masters have signed.

    \b
    Example:
      coreimage keys import /media/to-sign
    """
    from coreimage.system_image import import_keyrings  # noqa: PLC0415

    show_medium(settings, import_keyrings(settings.channel_tree(), folder), "published")
