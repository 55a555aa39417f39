"""`coreimage channel`: what channels there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.server import open_session, server_options
from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.client import Session
    from coreimage.client.documents import Channel


@click.group()
def channel() -> None:
    """What channels there are.

    \b
    Example:
      coreimage channel list
    """


@channel.command("list")
@server_options
@pass_settings
def list_channels(settings: Settings, server: str | None, keyring: Path | None) -> None:
    """List channels with their devices and newest versions, verified from the keyring down.

    \b
    Example:
      coreimage --json channel list --server https://images.example.com --keyring archive-master.tar.xz
    """
    from coreimage.image_server import client_errors  # noqa: PLC0415

    session = open_session(settings, server, keyring)
    with client_errors():
        found = [_entry(session, entry) for entry in session.channels().values()]
    click.echo(json.dumps(found) if settings.as_json else table(found))


def _entry(session: Session, channel: Channel) -> dict[str, Any]:
    newest = {
        device: max((image.version for image in session.index(channel.name, device).images), default=None)
        for device in channel.devices
    }
    return {"channel": channel.name, "hidden": channel.hidden, "alias": channel.alias, "devices": newest}


def table(channels: list[dict[str, Any]]) -> str:
    """One line per channel and device: name, device, newest version, and what else is to be said."""
    rows = [
        (entry["channel"], device or "-", str(version or "-"), _remarks(entry))
        for entry in channels
        for device, version in (entry["devices"] or {"": None}).items()
    ]
    rows.insert(0, ("CHANNEL", "DEVICE", "NEWEST", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _remarks(entry: dict[str, Any]) -> str:
    alias = f"alias of {entry['alias']}" if entry["alias"] else ""
    return ", ".join(filter(None, ["hidden" if entry["hidden"] else "", alias]))
