"""`coreimage import`: a channel's next version, of a build that is published already."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.options import devices_option
from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.operations.import_channel import ImportResult


@click.command("import")
@click.argument("channel")
@devices_option
@pass_settings
def import_(settings: Settings, channel: str, devices: tuple[str, ...]) -> None:
    """Make the next version of CHANNEL of the newest published build that it may take, and release it.

    The channel's `import_policy` says which builds it may take. Where the channel wants a boot test, a build that has
    not passed it becomes a candidate and waits.

    \b
    Example:
      coreimage import debian-core/13/edge --device generic_amd64
    """
    from coreimage.http import Downloader  # noqa: PLC0415
    from coreimage.operations.import_channel import import_channel  # noqa: PLC0415

    devices = settings.devices_of(channel, devices)
    project, tree = settings.load_project(), settings.channel_tree()
    results = import_channel(tree, project, channel, devices, fetch=Downloader())
    if settings.as_json:
        click.echo(json.dumps([_document(result) for result in results]))
    else:
        click.echo("\n".join(map(_line, results)))


def _document(result: ImportResult) -> dict[str, Any]:
    candidate = result.candidate.model_dump(include={"channel", "device", "version", "build_id"})
    return {**candidate, "released": result.release is not None}


def _line(result: ImportResult) -> str:
    candidate = result.candidate
    line = f"{candidate.channel} for {candidate.device}: version {candidate.version} of build {candidate.build_id}"
    return line if result.release else f"{line} waits for a boot test: `coreimage build {candidate.channel}`"
