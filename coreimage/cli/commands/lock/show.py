"""`coreimage lock show`: list the packages that a channel is built of, or lock newer ones."""

from __future__ import annotations

import click

from coreimage.cli.locks import as_json, difference_lines, locked_packages
from coreimage.cli.options import devices_option
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import NotFoundError


@click.command()
@click.argument("channel")
@devices_option
@click.option("--refresh", is_flag=True, help="Plan anew from how the archives stand now; builds only the tools.")
@pass_settings
def show(settings: Settings, channel: str, devices: tuple[str, ...], refresh: bool) -> None:
    """List the packages of CHANNEL's rootfs and devices as they are locked.

    \b
    Example:
      coreimage lock show debian-core/13/edge --device generic_amd64
    """
    from coreimage.operations.locks import channel_parts, current_locks, refresh_locks  # noqa: PLC0415

    store = settings.opened_store
    parts = channel_parts(settings.load_project(), channel, devices)
    if refresh:
        differences = refresh_locks(parts, store=store)
        paragraphs = [
            difference_lines(name, difference) if difference else f"{name}:\n  locked for the first time"
            for name, difference in differences.items()
        ]
        click.echo(as_json(differences) if settings.as_json else "\n".join(paragraphs))
        return
    locks = current_locks(parts, "current", store=store)
    if not locks:
        raise NotFoundError("nothing is locked yet", where=channel, resolution="add --refresh, or build the channel")
    tables = [locked_packages(name, lock) for name, lock in locks.items()]
    click.echo(as_json(locks) if settings.as_json else "\n\n".join(tables))
