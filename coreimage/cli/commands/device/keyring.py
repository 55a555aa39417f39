"""`coreimage device keyring`: let a device's makers sign for it."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import UsageError


@click.command()
@click.argument("channel")
@click.argument("name")
@click.option("--path", metavar="PATH", help="A device-signing keyring below the web root, its `.asc` beside it.")
@click.option("--clear", is_flag=True, help="Remove the device's keyring.")
@pass_settings
def keyring(settings: Settings, channel: str, name: str, path: str | None, clear: bool) -> None:
    """Let the makers of device NAME sign its index and files too, with the keys of a keyring of theirs.

    \b
    Example:
      coreimage device keyring debian-core/13/stable pc_amd64 --path keyrings/pc.tar.xz
    """
    from coreimage.system_image import set_device_keyring  # noqa: PLC0415

    if (path is None) != clear:
        raise UsageError("no keyring is named", resolution="name one with --path, or remove it with --clear")
    change = set_device_keyring(settings.channel_tree(), channel, name, path)
    finish_change(settings, change, f"keyring of {name} in {channel}: {path or 'none'}")
