"""`coreimage gc`: keep the store's pool within a size."""

from __future__ import annotations

import json

import click

from coreimage.cli.settings import Settings

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
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc(settings: Settings, max_size: str, dry_run: bool) -> None:
    """Remove the oldest packages and artifacts that nothing needs, until the pool is within its size.

    What a build, a channel, a current lock or a remembered result needs stays. Not to be run beside a build.

    \b
    Example:
      coreimage gc --max-size 5G --dry-run
    """
    from coreimage import logs  # noqa: PLC0415
    from coreimage.budget import parse_size  # noqa: PLC0415
    from coreimage.logs import decimal_size  # noqa: PLC0415
    from coreimage.pool import collect, record_folder  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    logs.show(settings.log_level)
    budget_bytes = parse_size(max_size)
    records = record_folder(settings.state("prefect"))
    removed, left_bytes = collect(open_store(settings.store_url), records, budget_bytes=budget_bytes, dry_run=dry_run)
    if settings.as_json:
        objects = [{"key": item.key, "size_bytes": item.size_bytes} for item in removed]
        click.echo(json.dumps({"removed": objects, "left_bytes": left_bytes, "dry_run": dry_run}))
        return
    for item in removed:
        click.echo(f"{decimal_size(item.size_bytes):>10}  {item.key}")
    freed, verb = decimal_size(sum(item.size_bytes for item in removed)), "would go" if dry_run else "removed"
    click.echo(f"{len(removed)} objects {verb}, {freed}; {decimal_size(left_bytes)} left")
    if left_bytes > budget_bytes:
        click.echo("still over its size: all that is left is needed, or of the last hours", err=True)
