"""What keeps an installation healthy, between builds."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from coreimage import expiry, logs, pages, system_image
from coreimage.budget import parse_size
from coreimage.config import MaintenanceConfig, Project
from coreimage.errors import AttentionError
from coreimage.logs import decimal_size
from coreimage.pool import collect, record_folder
from coreimage.project_bundle import open_project
from coreimage.rootfs import tidy_trees, trees_budget_bytes, trees_folder
from coreimage.storage import Store
from coreimage.workspace import sweep
from flows.reporting import ended_before, forget_runs
from flows.schedule import drop_missed
from tasks.console import artifact_key
from tasks.site import DEFAULT_PROJECT, PROJECT, Site, named, now
from tasks.system_image import publish_keyrings

log = structlog.get_logger("coreimage.upkeep")
_GB = 10**9


@flow(name="expire-channel", flow_run_name="{channel}", on_running=[drop_missed])
def expire_channel(channel: str, dry_run: bool = False) -> tuple[str, ...]:
    """Removes the builds, versions and disk images that the channel's `retention` gives up, and names them; and files
    of the web root that no channel names any more, once they are old enough.

    What a pointer names or somebody pinned stays, whatever its age.

    Args:
        channel: Whose builds.
        dry_run: Only say what would go.
    """
    logs.configure()
    site = Site.here(channel=channel)
    store = site.store()
    project = _project(store)
    effects: dict[str, Any] = {"store": store, "signer": site.signer(), "now": now}
    retired = expiry.expire_channel(project, channel, **effects, dry_run=dry_run)
    orphans = system_image.orphans(**effects) if dry_run else system_image.collect_orphans(**effects)
    if not dry_run:
        pages.write_pages(store=store, channels=[channel], trees=[expiry.build_tree(project, channel)])
    verb = "would go" if dry_run else "removed"
    items = [f"build {build}" for build in retired.builds]
    items += [f"version {version} for {each.device}" for each in retired.versions for version in each.versions]
    items += [*retired.images, *(orphan.key for orphan in orphans)]
    log.info(f"{len(items)} {verb}", channel=channel, items=", ".join(items))
    create_table_artifact([{"item": item, "": verb} for item in items], key=artifact_key("expired", channel))
    return tuple(items)


@flow(name="renew-signatures", flow_run_name="{project}", on_running=[drop_missed])
def renew_signatures(project: str) -> None:
    """Publishes the keyrings again that are near their end, and signs anew what former keys signed.

    The channels' own end moves on with it.

    Args:
        project: Whose keyrings.
    """
    logs.configure()
    site = Site.here()
    publish_keyrings(site=site)
    anew = system_image.sign_anew(store=site.store(), signer=site.signer(), now=lambda: datetime.now(UTC))
    log.info("keyrings and signatures are right", project=project, signed_anew=anew)


@flow(name="collect-garbage", flow_run_name="{project}", on_running=[drop_missed])
def collect_garbage(project: str, max_size: str = "20G", dry_run: bool = False) -> int:
    """Removes and names the oldest packages and artifacts that nothing needs, until the pool is within `max_size`.

    Also the tools trees of the worker's machine that are over their size (COREIMAGE_TOOLS_BUDGET), and what killed
    builds left there. Gives how many objects of the pool went.

    Args:
        project: Whose store.
        max_size: What the pool may take, such as 20G.
        dry_run: Only say what would go.
    """
    logs.configure()
    records = record_folder(Path("var/prefect"))
    store = Site.here().store()
    removed, left_bytes = collect(store, records, budget_bytes=parse_size(max_size), dry_run=dry_run)
    trees = tidy_trees(trees_folder(), budget_bytes=trees_budget_bytes(), dry_run=dry_run)
    gone = [(item.key, decimal_size(item.size_bytes)) for item in removed]
    gone += [(f"tools tree {tree.key}", decimal_size(tree.size_bytes)) for tree in trees]
    gone += [(str(folder), "") for folder in sweep(dry_run=dry_run)]
    freed = decimal_size(sum(item.size_bytes for item in (*removed, *trees)))
    verb = "would go" if dry_run else "removed"
    log.info(f"{len(gone)} objects {verb}", project=project, freed=freed, left_bytes=left_bytes)
    rows = [{"object": name, "size": size, "": verb} for name, size in gone]
    create_table_artifact(rows, key=artifact_key("garbage", project))
    return len(removed)


@flow(name="forget-runs", flow_run_name="{project}", on_running=[drop_missed])
def forget_old_runs(project: str, days: int = 90) -> int:
    """Removes from Prefect's server what it holds of the project's runs that ended so long ago, and counts them.

    Nothing rests on them: what steps remember is in the store.

    Args:
        project: Whose runs.
        days: How long they are kept.
    """
    logs.configure()
    tags = FlowRunFilterTags(all_=[f"project:{project}"])
    old = FlowRunFilter(tags=tags, end_time=ended_before(datetime.now(UTC) - timedelta(days=days)))
    removed = 0
    with get_client(sync_client=True) as client:
        while found := forget_runs(old, client):
            removed += found
    log.info(f"{removed} runs forgotten", project=project, days=days)
    return removed


@flow(name="check-installation", flow_run_name="{project}", on_running=[drop_missed])
def check_installation(project: str) -> None:
    """Looks for what will hurt soon: keyrings near their end, and a disk that fills up.

    Raises AttentionError naming all of it, so that whoever hears of failed runs hears of this.

    Args:
        project: Whose installation.
    """
    logs.configure()
    store = Site.here().store()
    found = findings(_project(store).config.maintenance, store, datetime.now(UTC))
    listed = "\n".join(f"- {finding}" for finding in found) or "Nothing needs attention."
    create_markdown_artifact(f"# {project}\n\n{listed}\n", key=artifact_key("check", project))
    if found:
        raise AttentionError(
            "; ".join(found), where=project, resolution="docs/operations.md says what to do about each"
        )
    log.info("nothing needs attention", project=project)


def findings(config: MaintenanceConfig, store: Store, now: datetime) -> tuple[str, ...]:
    """One sentence each."""
    ending = system_image.endings(store=store, within=timedelta(days=config.key_expiry_days), now=now)
    return (*ending, *low_disk(config.free_disk_gb, Path(tempfile.gettempdir())))


def low_disk(wanted_gb: float, folder: Path) -> tuple[str, ...]:
    free = shutil.disk_usage(folder).free
    if free >= wanted_gb * _GB:
        return ()
    return (f"{decimal_size(free)} of disk are free at {folder}, less than {wanted_gb:g} GB",)


def _project(store: Store) -> Project:
    return open_project(named("", PROJECT, DEFAULT_PROJECT), store=store)
