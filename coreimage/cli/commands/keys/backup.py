"""`coreimage keys backup`: save the private keys."""

from __future__ import annotations

import json
from pathlib import Path

import click

from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@pass_settings
def backup(settings: Settings, file: Path) -> None:
    """Write all private keys of this machine to FILE, a tar archive that only you can read.

    \b
    Example:
      coreimage keys backup /media/safe/coreimage-keys.tar
    """
    from coreimage.signing import write_backup  # noqa: PLC0415

    roles = [role.value for role in write_backup(settings.keys_folder, file)]
    if settings.as_json:
        click.echo(json.dumps({"file": str(file.absolute()), "roles": roles}))
        return
    click.echo(
        f"keys written to {file}: anyone who has it can sign updates for every device; "
        "keep it encrypted, and not on this machine"
    )
