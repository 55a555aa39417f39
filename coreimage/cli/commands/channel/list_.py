"""`coreimage channel list`: which channels a tree has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.settings import Settings, pass_settings
from coreimage.cli.tables import table
from coreimage.cli.tree_options import tree_options

if TYPE_CHECKING:
    from coreimage.client import Session
    from coreimage.client.documents import Channel
    from coreimage.operations.tree_source import TreeSource


@click.command("list")
@tree_options
@pass_settings
def list_(settings: Settings, source: TreeSource) -> None:
    """List channels with their devices and newest versions, verified from the keyring down.

    \b
    Example:
      coreimage --json channel list --server https://images.example.com --keyring archive-master.tar.xz
    """
    from coreimage.system_image.web import client_errors  # noqa: PLC0415

    session = source.open_session()
    with client_errors():
        channels = [_document(session, name, channel) for name, channel in session.channels().items()]
    click.echo(json.dumps(channels) if settings.as_json else channel_table(channels))


def channel_table(channels: list[dict[str, Any]]) -> str:
    """Return one line per channel and device: name, device, newest version, and whether it is hidden or an alias."""
    rows = [("CHANNEL", "DEVICE", "NEWEST", "")]
    for channel in channels:
        remarks = ["hidden"] if channel["hidden"] else []
        remarks += [f"alias of {channel['alias']}"] if channel["alias"] else []
        remarks += [f"leads to {channel['redirect']}"] if channel.get("redirect") else []
        for device, version in (channel["devices"] or {"-": None}).items():
            rows.append((channel["channel"], device, str(version or "-"), ", ".join(remarks)))
    return table(rows)


def _document(session: Session, name: str, channel: Channel) -> dict[str, Any]:
    newest = {
        device: max((image.version for image in session.index(name, device).images), default=None)
        for device in channel.devices
    }
    return {
        "channel": name,
        "hidden": channel.hidden,
        "alias": channel.alias,
        "redirect": channel.redirect,
        "devices": newest,
    }
