"""`coreimage keys init`: make the signing keys."""

from __future__ import annotations

import click

from coreimage.cli.commands.keys.show import show_keys
from coreimage.cli.keys import make_missing_keys
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@pass_settings
def init(settings: Settings) -> None:
    """Make the keys that are not there yet, and list all.

    \b
    Example:
      COREIMAGE_KEYS=/srv/keys coreimage keys init
    """
    make_missing_keys(settings.keys_folder)
    show_keys(settings)
