"""`coreimage query`: what a server offers, in the words of ubuntu-device-flash."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.removed import removed_option
from coreimage.cli.settings import Settings, pass_settings
from coreimage.cli.tree_options import tree_options
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.client import Session
    from coreimage.operations.tree_source import TreeSource


@click.command()
@click.option("--list-channels", is_flag=True, help="The channels that are not hidden and have the device.")
@click.option("--list-images", is_flag=True, help="The full images of a channel.")
@click.option("--show-image", is_flag=True, help="One image of a channel, with its files.")
@click.option("--channel", default="", help="Whole: `debian-core/13/edge`.")
@click.option("--device", help="The device [the channel's only one].")
@click.option("--revision", type=int, default=0, help="A version, or -N for the Nth before the newest.")
@click.option("--download-only", is_flag=True, hidden=True, expose_value=False, help="Of 2015: changes nothing.")
@click.option("--clean-cache", is_flag=True, hidden=True, expose_value=False, help="Of 2015: changes nothing.")
@click.option("-v", "--verbose", is_flag=True, hidden=True, expose_value=False, help="Of 2015: changes nothing.")
@removed_option("--tls-skip-verify", is_flag=True)
@tree_options
@pass_settings
def query(
    settings: Settings,
    list_channels: bool,
    list_images: bool,
    show_image: bool,
    channel: str,
    device: str | None,
    revision: int,
    source: TreeSource,
) -> None:
    """Ask a server what it offers, verified from the keyring down. Of several questions the first is answered.

    \b
    Example:
      coreimage query --list-channels --device generic_amd64
      coreimage query --list-images --channel debian-core/13/edge
      coreimage --json query --show-image --channel debian-core/13/edge --revision -1
    """
    from coreimage.system_image.web import client_errors  # noqa: PLC0415

    if not (list_channels or list_images or show_image):
        raise UsageError("nothing is asked", resolution="use --list-channels, --list-images or --show-image")
    if not list_channels and not channel:
        raise UsageError("no channel is named", resolution="name it with --channel; --list-channels lists them")
    session = source.open_session()
    with client_errors():
        if list_channels:
            answer, text = _channels(session, device)
        elif list_images:
            answer, text = _images(session, channel, _device(session, channel, device))
        else:
            answer, text = _image(session, channel, _device(session, channel, device), revision, source.url)
    click.echo(json.dumps(answer) if settings.as_json else text)


def _device(session: Session, channel: str, device: str | None) -> str:
    """Return the device named, else the channel's only one; empty for a channel that the tree does not have."""
    channels = session.channels()
    devices = list(channels[channel].devices) if channel in channels else [""]
    if device or len(devices) == 1:
        return device or devices[0]
    if not devices:
        return ""
    raise UsageError("no device is named", where=channel, resolution=f"name one with --device: {', '.join(devices)}")


def _channels(session: Session, device: str | None) -> tuple[Any, str]:
    channels = {
        name: channel
        for name, channel in session.channels().items()
        if not channel.hidden and (device is None or device in channel.devices)
    }
    documents = [
        {"channel": name, "alias": channel.alias, "devices": sorted(channel.devices)}
        for name, channel in channels.items()
    ]
    lines = [f"{name} (alias to {channel.alias})" if channel.alias else name for name, channel in channels.items()]
    return documents, "\n".join(lines)


def _images(session: Session, channel: str, device: str) -> tuple[Any, str]:
    images = [image for image in session.index(channel, device).images if image.type == "full"]
    documents = [
        {"version": image.version, "description": image.description, "pinned": image.pinned} for image in images
    ]
    lines = [
        f"{image.version}: description='{image.description}'"
        + ("" if image.pinned is None else f" pinned='{image.pinned}'")
        for image in images
    ]
    return documents, "\n".join(lines)


def _image(session: Session, channel: str, device: str, revision: int, web_root: str) -> tuple[Any, str]:
    image = session.select(channel, device, revision)
    files = [
        {
            "order": file.order,
            "url": file.path if "://" in file.path else f"{web_root.rstrip('/')}/{file.path.lstrip('/')}",
            "size": file.size_bytes,
            "sha256": file.sha256,
        }
        for file in image.files
    ]
    document = {
        "device": device,
        "description": image.description,
        "version": image.version,
        "version_detail": image.version_detail,
        "channel": channel,
    }
    lines = [f"{name.capitalize()}: {document[name]}" for name in ("device", "description", "version", "channel")]
    lines += ["Files:", *(f" {file['order']} {file['url']} {file['size']} {file['sha256']}" for file in files)]
    return {**document, "files": files}, "\n".join(lines)
