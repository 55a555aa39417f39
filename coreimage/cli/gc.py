"""`coreimage gc`: keep the store's pool and this machine's tools trees within their sizes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from coreimage.cli.settings import Settings

if TYPE_CHECKING:
    from coreimage.system_image import Expired, Orphan

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
    """Remove versions that channels no longer keep, files that no channel names, and the oldest packages and artifacts
    that nothing needs, until the pool is within its size; on this machine, the tools trees that were not used for
    longest, and what killed builds left.

    How many versions stay, `retention` of the project's channels says. What a build, a channel, a current lock or a
    remembered result needs stays. Not to be run beside a build.

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
    expired, loose = tree_rubbish(settings, dry_run=dry_run)
    removed, left_bytes = collect(open_store(settings.store_url), records, budget_bytes=budget_bytes, dry_run=dry_run)
    trees = tidy_trees(trees_folder(), budget_bytes=tools_bytes, dry_run=dry_run)
    folders = [str(folder) for folder in sweep(dry_run=dry_run)]
    if settings.as_json:
        objects = [{"key": item.key, "size_bytes": item.size_bytes} for item in removed]
        channels = {
            "expired": [each.model_dump() for each in expired],
            "orphans": [each.model_dump() for each in loose],
        }
        machine = {"trees": [{"tree": tree.key, "size_bytes": tree.size_bytes} for tree in trees], "folders": folders}
        click.echo(
            json.dumps({"removed": objects, **channels, **machine, "left_bytes": left_bytes, "dry_run": dry_run})
        )
        return
    for each in expired:
        click.echo(f"{each.channel} for {each.device}: versions {', '.join(map(str, each.versions))}")
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


def tree_rubbish(settings: Settings, *, dry_run: bool) -> tuple[tuple[Expired, ...], tuple[Orphan, ...]]:
    """Versions beyond the project's retention, and orphans. Nothing without the keys to read the channels with."""
    from coreimage.cli.publishing import publishing  # noqa: PLC0415
    from coreimage.config import load_project  # noqa: PLC0415
    from coreimage.signing import KeyFolder, Role  # noqa: PLC0415
    from coreimage.system_image import collect_orphans, expire_versions, orphans  # noqa: PLC0415
    from coreimage.system_image.tree import read_channels  # noqa: PLC0415

    if not KeyFolder(settings.keys_folder).knows(Role.IMAGE_SIGNING):
        return (), ()
    effects = publishing(settings)
    there = read_channels(effects["store"], effects["signer"]).document
    keeping = {
        name: config.retention.keep_count
        for name, config in load_project(settings.project_file).config.channels.items()
        if config.retention is not None and name in there
    }
    expired = [expire_versions(name, count, **effects, dry_run=dry_run) for name, count in keeping.items()]
    loose = orphans(**effects) if dry_run else collect_orphans(**effects)
    return tuple(each for channel in expired for each in channel), loose
