"""`coreimage keys sign`: sign keyrings with the masters."""

from __future__ import annotations

from pathlib import Path

import click

from coreimage.cli.keys import show_medium
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@pass_settings
def sign(settings: Settings, folder: Path) -> None:
    """Sign what `keys export` wrote to FOLDER, on the machine that has the masters.

    \b
    Example:
      COREIMAGE_KEYS=/media/masters coreimage keys sign /media/to-sign
    """
    from coreimage.signing import GnupgSigner  # noqa: PLC0415
    from coreimage.system_image import sign_keyrings  # noqa: PLC0415

    show_medium(settings, sign_keyrings(folder, signer=GnupgSigner(settings.keys_folder)), "signed")
