"""`coreimage keys move-masters`: take the master keys offline."""

from __future__ import annotations

import json
from pathlib import Path

import click

from coreimage.cli.settings import Settings, pass_settings


@click.command("move-masters")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@pass_settings
def move_masters(settings: Settings, folder: Path) -> None:
    """Move the private master keys to FOLDER, to be kept offline; their public halves stay here.

    \b
    Example:
      coreimage keys move-masters /media/masters
    """
    from coreimage import system_image  # noqa: PLC0415

    roles = [role.value for role in system_image.move_masters(settings.keys_folder, folder)]
    if settings.as_json:
        click.echo(json.dumps({"moved": roles, "folder": str(folder.absolute())}))
    else:
        click.echo(f"moved to {folder}: {', '.join(roles) or 'nothing: the masters are not here'}")
