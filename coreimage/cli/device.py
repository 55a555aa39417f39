"""`coreimage device`: which devices a channel has."""

from __future__ import annotations

import click

from coreimage.cli.publishing import of_device, publishing, show_change
from coreimage.cli.settings import Settings


@click.group()
def device() -> None:
    """Devices of a channel.

    \b
    Example:
      coreimage device create debian-core/13/stable generic_amd64
    """


@device.command()
@of_device
def create(settings: Settings, channel: str, name: str) -> None:
    """Give CHANNEL a device NAME, without versions yet.

    \b
    Example:
      coreimage device create debian-core/13/stable generic_amd64
    """
    from coreimage.system_image import create_device  # noqa: PLC0415

    show_change(settings, create_device(channel, name, **publishing(settings)), f"{channel} has device {name}")


@device.command()
@of_device
def remove(settings: Settings, channel: str, name: str) -> None:
    """Take device NAME from CHANNEL. Its version numbers are never used again.

    \b
    Example:
      coreimage device remove debian-core/13/stable pc_amd64
    """
    from coreimage.system_image import remove_device  # noqa: PLC0415

    show_change(settings, remove_device(channel, name, **publishing(settings)), f"{channel} has no device {name}")


@device.command()
@click.option("--path", metavar="PATH", help="A device-signing keyring below the web root, its `.asc` beside it.")
@click.option("--clear", is_flag=True, help="Take the device's keyring away.")
@of_device
def keyring(settings: Settings, channel: str, name: str, path: str | None, clear: bool) -> None:
    """Let the makers of device NAME sign its index and files too, with the keys of a keyring of theirs.

    \b
    Example:
      coreimage device keyring debian-core/13/stable pc_amd64 --path keyrings/pc.tar.xz
    """
    from coreimage.errors import UsageError  # noqa: PLC0415
    from coreimage.system_image import set_device_keyring  # noqa: PLC0415

    if (path is None) != clear:
        raise UsageError("say which keyring", resolution="name one with --path, or take it away with --clear")
    change = set_device_keyring(channel, name, path, **publishing(settings))
    show_change(settings, change, f"keyring of {name} in {channel}: {path or 'none'}")
