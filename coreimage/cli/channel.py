"""`coreimage channel`: what channels there are, and changes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.columns import aligned
from coreimage.cli.publishing import publishing, show_change, to_target
from coreimage.cli.server import open_session, server_options
from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.client import Session
    from coreimage.client.documents import Channel


@click.group()
def channel() -> None:
    """Channels: the named streams of versions that devices follow.

    \b
    Example:
      coreimage channel list
      coreimage channel create debian-core/13/stable
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


@channel.command()
@click.argument("name")
@pass_settings
def create(settings: Settings, name: str) -> None:
    """Make channel NAME, without devices yet.

    \b
    Example:
      coreimage channel create debian-core/13/stable
    """
    from coreimage.system_image import create_channel  # noqa: PLC0415

    show_change(settings, create_channel(name, **publishing(settings)), f"channel {name} made")


@channel.command()
@click.argument("name")
@pass_settings
def remove(settings: Settings, name: str) -> None:
    """Remove channel NAME, and redirects to it. Its files go with the next `coreimage gc`.

    A channel that an alias follows stays.

    \b
    Example:
      coreimage channel remove debian-core/12/edge
    """
    from coreimage.system_image import remove_channel  # noqa: PLC0415

    show_change(settings, remove_channel(name, **publishing(settings)), f"channel {name} removed")


@channel.command()
@click.argument("old")
@click.argument("new")
@click.option("--redirect/--no-redirect", default=True, help="Leave a redirect, so that devices find the new name.")
@pass_settings
def rename(settings: Settings, old: str, new: str, redirect: bool) -> None:
    """Rename channel OLD to NEW; what follows it follows.

    \b
    Example:
      coreimage channel rename debian-core/13/beta debian-core/13/candidate
    """
    from coreimage.system_image import rename_channel  # noqa: PLC0415

    change = rename_channel(old, new, leave_redirect=redirect, **publishing(settings))
    show_change(settings, change, f"channel {old} is {new} now")


@channel.command()
@click.argument("name")
@pass_settings
def hide(settings: Settings, name: str) -> None:
    """Hide channel NAME from listings; its devices notice nothing.

    \b
    Example:
      coreimage channel hide debian-core/13/edge
    """
    from coreimage.system_image import hide_channel  # noqa: PLC0415

    show_change(settings, hide_channel(name, **publishing(settings)), f"channel {name} hidden")


@channel.command()
@click.argument("name")
@pass_settings
def show(settings: Settings, name: str) -> None:
    """Show channel NAME in listings again.

    \b
    Example:
      coreimage channel show debian-core/13/edge
    """
    from coreimage.system_image import show_channel  # noqa: PLC0415

    show_change(settings, show_channel(name, **publishing(settings)), f"channel {name} shown")


@channel.command()
@to_target
@pass_settings
def alias(settings: Settings, name: str, target: str) -> None:
    """Let NAME follow channel TARGET: its devices keep the name, and get what TARGET has.

    An alias that exists gets this target; its devices then install it whole.

    \b
    Example:
      coreimage channel alias debian-core/stable debian-core/13/stable
    """
    from coreimage.system_image import alias_channel  # noqa: PLC0415

    show_change(settings, alias_channel(name, target, **publishing(settings)), f"channel {name} follows {target}")


@channel.command()
@to_target
@click.option("--device", metavar="D", help="Only this device of NAME.")
@pass_settings
def redirect(settings: Settings, name: str, target: str, device: str | None) -> None:
    """Send devices of NAME to channel TARGET with their next update.

    \b
    Example:
      coreimage channel redirect debian-core/12/stable debian-core/13/stable
    """
    from coreimage.system_image import redirect_channel  # noqa: PLC0415

    change = redirect_channel(name, target, device=device, **publishing(settings))
    show_change(settings, change, f"channel {name} leads to {target}")


def _entry(session: Session, channel: Channel) -> dict[str, Any]:
    newest = {
        device: max((image.version for image in session.index(channel.name, device).images), default=None)
        for device in channel.devices
    }
    return {
        "channel": channel.name,
        "hidden": channel.hidden,
        "alias": channel.alias,
        "redirect": channel.redirect,
        "devices": newest,
    }


def table(channels: list[dict[str, Any]]) -> str:
    """One line per channel and device: name, device, newest version, and what else is to be said."""
    rows = [
        (entry["channel"], device or "-", str(version or "-"), _remarks(entry))
        for entry in channels
        for device, version in (entry["devices"] or {"": None}).items()
    ]
    rows.insert(0, ("CHANNEL", "DEVICE", "NEWEST", ""))
    return aligned(rows)


def _remarks(entry: dict[str, Any]) -> str:
    alias = f"alias of {entry['alias']}" if entry["alias"] else ""
    redirect = f"leads to {entry['redirect']}" if entry.get("redirect") else ""
    return ", ".join(filter(None, ["hidden" if entry["hidden"] else "", alias, redirect]))
