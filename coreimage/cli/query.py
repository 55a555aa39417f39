"""`coreimage query`: what a server offers, in the words of ubuntu-device-flash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.server import open_session, server_options, server_url
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.client import Image, Session


@click.command()
@click.option("--list-channels", is_flag=True, help="The channels that are not hidden and have the device.")
@click.option("--list-images", is_flag=True, help="The full images of a channel.")
@click.option("--show-image", is_flag=True, help="One image of a channel, with its files.")
@click.option("--channel", help="Whole: `debian-core/13/edge`.")
@click.option("--device", help="The device [the channel's only one].")
@click.option("--revision", type=int, default=0, help="A version, or -N for the Nth before the newest.")
@server_options
@pass_settings
def query(
    settings: Settings,
    list_channels: bool,
    list_images: bool,
    show_image: bool,
    channel: str | None,
    device: str | None,
    revision: int,
    server: str | None,
    keyring: Path | None,
) -> None:
    """Ask a server what it offers, verified from the keyring down. Of several questions the first is answered.

    \b
    Example:
      coreimage query --list-channels --device generic_amd64
      coreimage query --list-images --channel debian-core/13/edge
      coreimage --json query --show-image --channel debian-core/13/edge --revision -1
    """
    from coreimage.image_server import client_errors  # noqa: PLC0415

    if not (list_channels or list_images or show_image):
        raise UsageError("nothing is asked", resolution="use --list-channels, --list-images or --show-image")
    if not list_channels and channel is None:
        raise UsageError("of which channel?", resolution="name it with --channel; --list-channels lists them")
    session = open_session(settings, server, keyring)
    found: Any
    with client_errors():
        if list_channels:
            found, text = _channels(session, device)
        elif list_images:
            found, text = _images(session, str(channel), _device(session, str(channel), device))
        else:
            base = server_url(server) if server else settings.store_url + "/system-image"
            found, text = _image(session, str(channel), _device(session, str(channel), device), revision, base)
    click.echo(json.dumps(found) if settings.as_json else text)


def _device(session: Session, channel: str, device: str | None) -> str:
    known = session.channels()[channel].devices if channel in session.channels() else {}
    if device or len(known) == 1:
        return device or next(iter(known))
    if not known:
        return ""
    raise UsageError("of which device?", where=channel, resolution=f"name one with --device: {', '.join(known)}")


def _channels(session: Session, device: str | None) -> tuple[list[Any], str]:
    shown = [
        channel
        for channel in session.channels().values()
        if not channel.hidden and (device is None or device in channel.devices)
    ]
    found = [{"channel": each.name, "alias": each.alias, "devices": sorted(each.devices)} for each in shown]
    return found, "\n".join(each.name + (f" (alias to {each.alias})" if each.alias else "") for each in shown)


def _images(session: Session, channel: str, device: str) -> tuple[list[Any], str]:
    fulls = [image for image in session.index(channel, device).images if image.type == "full"]
    found = [{"version": each.version, "description": each.description, "pinned": each.pinned} for each in fulls]
    return found, "\n".join(f"{each.version}: description='{each.description}'{_pin(each)}" for each in fulls)


def _pin(image: Image) -> str:
    return "" if image.pinned is None else f" pinned='{image.pinned}'"


def _image(session: Session, channel: str, device: str, revision: int, base: str) -> tuple[dict[str, Any], str]:
    image: Image = session.select(channel, device, revision)
    files = [
        {
            "order": file.order,
            "url": file.path if "://" in file.path else f"{base.rstrip('/')}/{file.path.lstrip('/')}",
            "size": file.size_bytes,
            "sha256": file.sha256,
        }
        for file in image.files
    ]
    about = {
        "device": device,
        "description": image.description,
        "version": image.version,
        "version_detail": image.version_detail,
        "channel": channel,
    }
    lines = [f"{name.capitalize()}: {about[name]}" for name in ("device", "description", "version", "channel")]
    lines += ["Files:", *(f" {f['order']} {f['url']} {f['size']} {f['sha256']}" for f in files)]
    return {**about, "files": files}, "\n".join(lines)
