"""`coreimage gc`: keep the store's pool and this machine's tools trees within their sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from coreimage.cli.settings import Settings

if TYPE_CHECKING:
    from coreimage.expiry import Retired
    from coreimage.system_image import Orphan

_BUDGET = "20G"


@click.command()
@click.option(
    "--max-size",
    envvar="COREIMAGE_DISK_BUDGET",
    default=_BUDGET,
    show_default=True,
    metavar="SIZE",
    help="What the pool may take, such as 20G.",
)
@click.option(
    "--max-tools",
    envvar="COREIMAGE_TOOLS_BUDGET",
    default="4G",
    show_default=True,
    metavar="SIZE",
    help="What this machine's unpacked tools trees may take.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc(settings: Settings, max_size: str, max_tools: str, dry_run: bool) -> None:
    """Remove builds, versions and images that channels no longer keep, files that no channel names, and the oldest
    packages and artifacts that nothing needs, until the pool is within its size; on this machine, the tools trees that
    were not used for longest, and what killed builds left.

    What stays, `retention` of the project's channels says, and `coreimage pin`. What a build, a channel, a current lock
    or a remembered result needs stays. Not to be run beside a build.

    \b
    Example:
      coreimage gc --max-size 5G --dry-run
    """
    from coreimage import logs  # noqa: PLC0415
    from coreimage.budget import parse_size  # noqa: PLC0415
    from coreimage.logs import decimal_size  # noqa: PLC0415
    from coreimage.pool import collect, record_folder  # noqa: PLC0415
    from coreimage.rootfs import tidy_trees, trees_folder  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415
    from coreimage.workspace import sweep  # noqa: PLC0415

    logs.show(settings.log_level)
    budget_bytes, tools_bytes = parse_size(max_size), parse_size(max_tools)
    records = record_folder(settings.state("prefect"))
    retired, loose = tree_rubbish(settings, dry_run=dry_run)
    removed, left_bytes = collect(open_store(settings.store_url), records, budget_bytes=budget_bytes, dry_run=dry_run)
    trees = tidy_trees(trees_folder(), budget_bytes=tools_bytes, dry_run=dry_run)
    folders = [str(folder) for folder in sweep(dry_run=dry_run)]
    if settings.as_json:
        objects = [{"key": item.key, "size_bytes": item.size_bytes} for item in removed]
        channels = {
            "builds": [key for each in retired.values() for key in each.builds],
            "expired": [gone.model_dump() for each in retired.values() for gone in each.versions],
            "images": [prefix for each in retired.values() for prefix in each.images],
            "orphans": [each.model_dump() for each in loose],
        }
        machine = {"trees": [{"tree": tree.key, "size_bytes": tree.size_bytes} for tree in trees], "folders": folders}
        click.echo(
            json.dumps({"removed": objects, **channels, **machine, "left_bytes": left_bytes, "dry_run": dry_run})
        )
        return
    for line in (line for channel, each in retired.items() for line in _lines(channel, each)):
        click.echo(line)
    gone = [(item.key, item.size_bytes) for item in loose] + [(item.key, item.size_bytes) for item in removed]
    gone += [(str(trees_folder() / tree.key), tree.size_bytes) for tree in trees]
    for key, size_bytes in gone:
        click.echo(f"{decimal_size(size_bytes):>10}  {key}")
    for folder in folders:
        click.echo(f"{'':>10}  {folder}")
    freed = decimal_size(sum(size_bytes for _, size_bytes in gone))
    verb = "would go" if dry_run else "removed"
    click.echo(f"{len(gone)} objects {verb}, {freed}; {decimal_size(left_bytes)} left")
    if left_bytes > budget_bytes:
        click.echo("still over its size: all that is left is needed, or of the last hours", err=True)


def _lines(channel: str, retired: Retired) -> Iterator[str]:
    if retired.builds:
        yield f"{channel}: builds {', '.join(retired.builds)}"
    for gone in retired.versions:
        yield f"{channel} for {gone.device}: versions {', '.join(map(str, gone.versions))}"
    for prefix in retired.images:
        yield f"{channel}: {prefix}"


def tree_rubbish(settings: Settings, *, dry_run: bool) -> tuple[dict[str, Retired], tuple[Orphan, ...]]:
    """What the project's retention gives up, by channel, and orphans. Nothing without the keys to read the channels."""
    from coreimage.cli.publishing import publishing  # noqa: PLC0415
    from coreimage.config import load_project  # noqa: PLC0415
    from coreimage.expiry import Retired, build_tree, expire_channel  # noqa: PLC0415
    from coreimage.pages import write_pages  # noqa: PLC0415
    from coreimage.signing import KeyFolder, Role  # noqa: PLC0415
    from coreimage.system_image import collect_orphans, orphans  # noqa: PLC0415

    if not KeyFolder(settings.keys_folder).knows(Role.IMAGE_SIGNING):
        return {}, ()
    effects = publishing(settings)
    project = load_project(settings.project_file)
    keeping = [name for name, config in project.config.channels.items() if config.retention]
    retired = {name: expire_channel(project, name, **effects, dry_run=dry_run) for name in keeping}
    changed = [name for name, each in retired.items() if each != Retired()]
    if changed and not dry_run:
        trees = list({build_tree(project, name): None for name in changed})
        write_pages(store=effects["store"], channels=changed, trees=trees)
    return retired, orphans(**effects) if dry_run else collect_orphans(**effects)
