"""`coreimage gc`: keep the store and this machine's tools trees within their sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from coreimage.cli.options import SIZE
from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.operations.expire_channel import CleanUp
    from coreimage.operations.garbage import Garbage


@click.command()
@click.option(
    "--max-size",
    envvar="COREIMAGE_DISK_BUDGET",
    default="20G",
    show_default=True,
    type=SIZE,
    help="What packages and artifacts may take, such as 20G.",
)
@click.option(
    "--max-tools",
    envvar="COREIMAGE_TOOLS_BUDGET",
    default="4G",
    show_default=True,
    type=SIZE,
    help="What this machine's unpacked tools trees may take.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@pass_settings
def gc(settings: Settings, max_size: int, max_tools: int, dry_run: bool) -> None:
    """Remove what the store and this machine no longer need.

    This removes the builds, versions and images that channels no longer keep, files that no channel names, and the
    oldest packages and artifacts that nothing needs until the rest is within --max-size; on this machine the least
    recently used tools trees, and folders that killed builds left.

    `retention` of the project's channels and `coreimage pin` decide what is kept. What a build, a channel, a current
    lock or a remembered result needs is never removed. Do not run it beside a build.

    \b
    Example:
      coreimage gc --max-size 5G --dry-run
    """
    from coreimage.operations.garbage import collect_garbage, record_folder  # noqa: PLC0415

    cleanup = _clean_up(settings, dry_run=dry_run)
    garbage = collect_garbage(
        settings.opened_store,
        record_folder(settings.state("prefect")),
        blobs_bytes=max_size,
        trees_bytes=max_tools,
        dry_run=dry_run,
    )
    if settings.as_json:
        click.echo(json.dumps(_document(cleanup, garbage, dry_run=dry_run)))
        return
    for line in _lines(cleanup, garbage, dry_run=dry_run):
        click.echo(line)
    if garbage.left_bytes > max_size:
        click.echo("the store is still over --max-size: all that is left is needed, or only hours old", err=True)


def _clean_up(settings: Settings, *, dry_run: bool) -> CleanUp:
    from coreimage.operations.expire_channel import CleanUp, clean_up_channels  # noqa: PLC0415
    from coreimage.signing import KeyFolder, Role  # noqa: PLC0415

    # Without the key that signs them, channels can neither be read nor changed.
    if not KeyFolder(settings.keys_folder).knows(Role.IMAGE_SIGNING):
        return CleanUp(channels={}, orphans=())
    project = settings.load_project()
    channels = [name for name, config in project.config.channels.items() if config.retention]
    return clean_up_channels(settings.channel_tree(), project, channels, dry_run=dry_run)


def _document(cleanup: CleanUp, garbage: Garbage, *, dry_run: bool) -> dict[str, object]:
    expired = cleanup.channels.values()
    return {
        "removed": [{"key": blob.key, "size_bytes": blob.size_bytes} for blob in garbage.blobs],
        "builds": [key for each in expired for key in each.builds],
        "expired": [versions.model_dump() for each in expired for versions in each.versions],
        "images": [prefix for each in expired for prefix in each.images],
        "orphans": [orphan.model_dump() for orphan in cleanup.orphans],
        "trees": [{"tree": tree.key, "size_bytes": tree.size_bytes} for tree in garbage.trees],
        "folders": [str(folder) for folder in garbage.folders],
        "left_bytes": garbage.left_bytes,
        "dry_run": dry_run,
    }


def _lines(cleanup: CleanUp, garbage: Garbage, *, dry_run: bool) -> Iterator[str]:
    from coreimage.logs import decimal_size  # noqa: PLC0415
    from coreimage.rootfs import trees_folder  # noqa: PLC0415

    for channel, expired in cleanup.channels.items():
        if expired.builds:
            yield f"{channel}: builds {', '.join(expired.builds)}"
        for each in expired.versions:
            yield f"{channel} for {each.device}: versions {', '.join(map(str, each.versions))}"
        for prefix in expired.images:
            yield f"{channel}: {prefix}"
    sizes = [(orphan.key, orphan.size_bytes) for orphan in cleanup.orphans]
    sizes += [(blob.key, blob.size_bytes) for blob in garbage.blobs]
    sizes += [(str(trees_folder() / tree.key), tree.size_bytes) for tree in garbage.trees]
    for name, size_bytes in sizes:
        yield f"{decimal_size(size_bytes):>10}  {name}"
    for folder in garbage.folders:
        yield f"{'':>10}  {folder}"
    verb = "would be removed" if dry_run else "removed"
    freed = decimal_size(sum(size_bytes for _, size_bytes in sizes))
    yield f"{len(sizes)} objects {verb}, {freed}; {decimal_size(garbage.left_bytes)} left"
