"""`coreimage builds`: list the published builds of a channel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.settings import Settings, pass_settings
from coreimage.cli.tables import table

if TYPE_CHECKING:
    from coreimage.pages.content import BuildLine


@click.command()
@click.argument("channel")
@pass_settings
def builds(settings: Settings, channel: str) -> None:
    """List the published builds of CHANNEL, newest first: what they are good for, which are current, which are pinned.

    \b
    Example:
      coreimage builds debian-core/13/edge
    """
    from coreimage.pages import list_builds  # noqa: PLC0415
    from coreimage.publication import build_tree  # noqa: PLC0415

    listed = list_builds(build_tree(settings.project_with(channel), channel), store=settings.opened_store)
    if settings.as_json:
        click.echo(json.dumps([_document(build) for build in listed.lines]))
        return
    click.echo(table([("BUILD", "SIZE", "GOOD FOR", ""), *map(_row, listed.lines)]))
    if listed.older:
        click.echo(f"{listed.older} older builds are not shown", err=True)


def _document(build: BuildLine) -> dict[str, Any]:
    return {
        "build_id": build.build_id,
        "size_bytes": build.size_bytes,
        "good": build.good,
        "current": build.current,
        "newest": build.newest,
        "carried": build.carried,
        "pinned": build.pinned,
    }


def _row(build: BuildLine) -> tuple[str, str, str, str]:
    from coreimage.logs import decimal_size  # noqa: PLC0415

    remarks = [*build.marks, *(f"{name} of {build_id}" for name, build_id in build.carried.items())]
    if build.pinned is not None:
        remarks.append(f"pinned: {build.pinned}" if build.pinned else "pinned")
    return build.build_id, decimal_size(build.size_bytes), " ".join(build.good) or "-", ", ".join(remarks)
