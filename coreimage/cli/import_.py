"""`coreimage import`: a channel's next version, of a build that is published already."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.publishing import publishing
from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.intake import Intake


@click.command("import")
@click.argument("channel")
@click.option("--device", "devices", multiple=True, metavar="D", help="Only this device; may be repeated.")
@pass_settings
def import_(settings: Settings, channel: str, devices: tuple[str, ...]) -> None:
    """Make the next version of CHANNEL of the newest published build that it may take, and release it.

    Which builds it may take, `import_policy` says. Where the channel wants a boot test, a build that has not passed it
    becomes a candidate and waits.

    \b
    Example:
      coreimage import debian-core/13/edge --device generic_amd64
    """
    from coreimage.config import load_project  # noqa: PLC0415
    from coreimage.errors import UsageError  # noqa: PLC0415
    from coreimage.http import Downloader  # noqa: PLC0415
    from coreimage.intake import import_channel  # noqa: PLC0415
    from coreimage.system_image import publish_keyrings  # noqa: PLC0415

    known = settings.devices_of(channel)
    unknown = [device for device in devices if device not in known]
    if unknown:
        resolution = f"its devices: {', '.join(known)}"
        raise UsageError(f"device {unknown[0]!r} is not in the channel", where=channel, resolution=resolution)
    effects = publishing(settings)
    publish_keyrings(**effects)
    project = load_project(settings.project_file)
    fetch = Downloader()
    done = [import_channel(project, channel, device, fetch=fetch, **effects) for device in devices or known]
    click.echo(json.dumps([_document(each) for each in done]) if settings.as_json else "\n".join(map(_line, done)))


def _document(done: Intake) -> dict[str, Any]:
    candidate = done.candidate.model_dump(include={"channel", "device", "version", "build_id"})
    return {**candidate, "released": done.release is not None}


def _line(done: Intake) -> str:
    made = done.candidate
    said = f"{made.channel} for {made.device}: version {made.version} of build {made.build_id}"
    return said if done.release else f"{said} waits for a boot test: `coreimage build {made.channel}`"
