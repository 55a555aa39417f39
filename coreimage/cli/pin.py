"""`coreimage builds`, `pin` and `unpin`: what is published, and what of it stays however old it gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.columns import aligned
from coreimage.cli.publishing import publishing, show_change
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.pages.site import BuildLine
    from coreimage.publication import BuildId, BuildTree
    from coreimage.storage import Store


def of_build_or_version(command: Callable[..., Any]) -> Callable[..., Any]:
    """The channel, and the options that say what of it is meant."""
    device = click.option("--device", metavar="D", help="Whose version.")
    version = click.option("--version", type=int, metavar="N", help="A version of the device.")
    build = click.option("--build", metavar="ID", help="A published build, such as 20261123.1.")
    return click.argument("channel")(build(device(version(pass_settings(command)))))


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
    from coreimage.storage import open_store  # noqa: PLC0415

    found = list_builds(_tree(settings, channel), store=open_store(settings.store_url))
    if settings.as_json:
        click.echo(json.dumps([_document(line) for line in found.lines]))
        return
    click.echo(aligned([("BUILD", "SIZE", "GOOD FOR", ""), *map(_row, found.lines)]))
    if found.older:
        click.echo(f"{found.older} older builds are not shown", err=True)


@click.command()
@of_build_or_version
@click.option("--note", default="", metavar="TEXT", help="Why: pages and listings show it.")
def pin(
    settings: Settings, channel: str, build: str | None, device: str | None, version: int | None, note: str
) -> None:
    """Keep a build of CHANNEL, or a version with its disk image, from retention until it is unpinned.

    \b
    Example:
      coreimage pin debian-core/13/edge --build 20261123.1 --note "the last with Linux 6.12"
      coreimage pin debian-core/13/stable --device generic_amd64 --version 7
    """
    from datetime import UTC, datetime  # noqa: PLC0415

    from coreimage.publication import pin_build  # noqa: PLC0415
    from coreimage.system_image import pin_version  # noqa: PLC0415

    if build := _chosen(build, device, version):
        _change_build(
            settings,
            channel,
            build,
            lambda tree, build_id, store: pin_build(tree, build_id, note, store=store, now=datetime.now(UTC)),
            f"build {build} stays until it is unpinned",
        )
        return
    change = pin_version(channel, str(device), int(version or 0), note, **publishing(settings))
    show_change(settings, change, f"{channel} for {device}: version {version} stays until it is unpinned")


@click.command()
@of_build_or_version
def unpin(settings: Settings, channel: str, build: str | None, device: str | None, version: int | None) -> None:
    """Leave a pinned build or version of CHANNEL to retention again.

    \b
    Example:
      coreimage unpin debian-core/13/edge --build 20261123.1
    """
    from coreimage.publication import unpin_build  # noqa: PLC0415
    from coreimage.system_image import unpin_version  # noqa: PLC0415

    if build := _chosen(build, device, version):
        _change_build(
            settings,
            channel,
            build,
            lambda tree, build_id, store: unpin_build(tree, build_id, store=store),
            f"build {build} goes when retention says so",
        )
        return
    change = unpin_version(channel, str(device), int(version or 0), **publishing(settings))
    show_change(settings, change, f"{channel} for {device}: version {version} goes when retention says so")


def _chosen(build: str | None, device: str | None, version: int | None) -> str | None:
    """The build; None where a device's version is meant."""
    if (build is None) != (device is not None and version is not None) or (build and (device or version is not None)):
        raise UsageError("which one?", resolution="name a --build, or a --device and its --version")
    return build


def _change_build(
    settings: Settings,
    channel: str,
    build: str,
    change: Callable[[BuildTree, BuildId, Store], bool],
    sentence: str,
) -> None:
    from coreimage.pages import write_pages  # noqa: PLC0415
    from coreimage.publication import parse_build_id  # noqa: PLC0415
    from coreimage.storage import open_store, require_format  # noqa: PLC0415

    build_id, tree, store = parse_build_id(build), _tree(settings, channel), open_store(settings.store_url)
    require_format(store)
    changed = change(tree, build_id, store)
    write_pages(store=store, channels=[], trees=[tree], changed=[build_id])
    if settings.as_json:
        click.echo(json.dumps({"changed": changed, "channel": channel, "build_id": build}))
    else:
        click.echo(sentence if changed else f"{sentence}: it was so already")


def _tree(settings: Settings, channel: str) -> BuildTree:
    from coreimage.config import load_project  # noqa: PLC0415
    from coreimage.expiry import build_tree  # noqa: PLC0415

    settings.devices_of(channel)
    return build_tree(load_project(settings.project_file), channel)


def _document(line: BuildLine) -> dict[str, Any]:
    about = {"build_id": line.build_id, "size_bytes": line.size_bytes, "good": line.good, "current": line.current}
    return {**about, "newest": line.newest, "carried": line.carried, "pinned": line.pinned}


def _row(line: BuildLine) -> tuple[str, str, str, str]:
    from coreimage.logs import decimal_size  # noqa: PLC0415

    pinned = [] if line.pinned is None else [f"pinned: {line.pinned}" if line.pinned else "pinned"]
    carried = [f"{name} of {build_id}" for name, build_id in line.carried.items()]
    remarks = ", ".join([*line.marks, *carried, *pinned])
    return line.build_id, decimal_size(line.size_bytes), " ".join(line.good) or "-", remarks
