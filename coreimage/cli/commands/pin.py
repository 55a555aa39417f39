"""`coreimage pin`: keep a build or a version from retention."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.pins import build_or_version_options, not_one_of_both, show_build_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("channel")
@build_or_version_options
@click.option("--note", default="", metavar="TEXT", help="Why: pages and listings show it.")
@pass_settings
def pin(
    settings: Settings, channel: str, build: str | None, device: str | None, version: int | None, note: str
) -> None:
    """Keep a build of CHANNEL, or a version with its disk image, from retention until it is unpinned.

    \b
    Example:
      coreimage pin debian-core/13/edge --build 20261123.1 --note "the last with Linux 6.12"
      coreimage pin debian-core/13/stable --device generic_amd64 --version 7
    """
    from coreimage.operations.pins import pin_build  # noqa: PLC0415
    from coreimage.system_image import pin_version  # noqa: PLC0415

    match build, device, version:
        case str(), None, None:
            project, store = settings.project_with(channel), settings.open_store_to_write()
            changed = pin_build(project, channel, build, note, store=store, now=datetime.now(UTC))
            sentence = f"build {build} stays until it is unpinned"
            show_build_change(settings, channel, build, sentence, changed=changed)
        case None, str(), int():
            change = pin_version(settings.channel_tree(), channel, device, version, note)
            finish_change(settings, change, f"{channel} for {device}: version {version} stays until it is unpinned")
        case _:
            raise not_one_of_both()
