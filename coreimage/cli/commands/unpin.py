"""`coreimage unpin`: leave a build or a version to retention again."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.pins import build_or_version_options, not_one_of_both, show_build_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("channel")
@build_or_version_options
@pass_settings
def unpin(settings: Settings, channel: str, build: str | None, device: str | None, version: int | None) -> None:
    """Leave a pinned build or version of CHANNEL to retention again.

    \b
    Example:
      coreimage unpin debian-core/13/edge --build 20261123.1
    """
    from coreimage.operations.pins import unpin_build  # noqa: PLC0415
    from coreimage.system_image import unpin_version  # noqa: PLC0415

    match build, device, version:
        case str(), None, None:
            project, store = settings.project_with(channel), settings.open_store_to_write()
            changed = unpin_build(project, channel, build, store=store)
            sentence = f"build {build} goes when retention says so"
            show_build_change(settings, channel, build, sentence, changed=changed)
        case None, str(), int():
            change = unpin_version(settings.channel_tree(), channel, device, version)
            finish_change(settings, change, f"{channel} for {device}: version {version} goes when retention says so")
        case _:
            raise not_one_of_both()
