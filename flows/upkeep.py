"""The flows that keep an installation healthy between builds, run by schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from coreimage import logs, system_image
from coreimage.errors import AttentionError
from coreimage.logs import decimal_size
from coreimage.model import Size
from coreimage.operations import health
from coreimage.operations.expire_channel import ExpiredItems, clean_up_channels
from coreimage.operations.garbage import collect_garbage as collect
from coreimage.operations.garbage import record_folder
from coreimage.project.config import POOL_SIZE
from coreimage.rootfs import trees_budget_bytes
from flows.report.runs import ended_before, forget_runs
from flows.running.schedule import drop_missed
from tasks.console import artifact_key
from tasks.site import Site
from tasks.system_image import publish_keyrings

log = structlog.get_logger("coreimage.upkeep")


@flow(name="expire-channel", flow_run_name="{channel}", on_running=[drop_missed])
def expire_channel(channel: str, dry_run: bool = False) -> tuple[str, ...]:
    """Remove the builds, versions and disk images that the channel's `retention` gives up, and list them.

    Files of the web root that no channel names any more are removed too, once they are two days old. What a pointer
    names or somebody pinned stays, whatever its age.

    Args:
        channel: The channel.
        dry_run: Only list what would be removed.
    """
    logs.configure()
    site = Site.here(channel=channel)
    cleanup = clean_up_channels(site.channel_tree(), site.project(), [channel], dry_run=dry_run)
    expired = cleanup.channels.get(channel, ExpiredItems())
    verb = "would be removed" if dry_run else "removed"
    items = [f"build {build}" for build in expired.builds]
    items += [f"version {version} for {each.device}" for each in expired.versions for version in each.versions]
    items += [*expired.images, *(orphan.key for orphan in cleanup.orphans)]
    log.info(f"{len(items)} {verb}", channel=channel, items=", ".join(items))
    create_table_artifact([{"item": item, "": verb} for item in items], key=artifact_key("expired", channel))
    return tuple(items)


@flow(name="renew-signatures", flow_run_name="{project}", on_running=[drop_missed])
def renew_signatures(project: str) -> None:
    """Publish again the keyrings that expire soon, sign again what former keys signed, and renew the channels' end.

    Args:
        project: The project.
    """
    logs.configure()
    site = Site.here()
    publish_keyrings(site=site)
    anew = system_image.sign_anew(site.channel_tree())
    log.info("keyrings and signatures are up to date", project=project, signed_anew=anew)


@flow(name="collect-garbage", flow_run_name="{project}", on_running=[drop_missed])
def collect_garbage(project: str, max_size: Size = POOL_SIZE, dry_run: bool = False) -> int:
    """Remove the oldest packages and artifacts that nothing needs, until the store's blobs are within a size.

    Tools trees of the worker's machine that are over their own size (COREIMAGE_TOOLS_BUDGET) and folders that killed
    builds left there are removed too. The run lists everything, and returns how many blobs were removed.

    Args:
        project: The project.
        max_size: The size that the blobs may take, such as 20G.
        dry_run: Only list what would be removed.
    """
    logs.configure()
    garbage = collect(
        Site.here().store(),
        record_folder(Path("var/prefect")),
        blobs_bytes=max_size,
        trees_bytes=trees_budget_bytes(),
        dry_run=dry_run,
    )
    objects = [(blob.key, decimal_size(blob.size_bytes)) for blob in garbage.blobs]
    objects += [(f"tools tree {tree.key}", decimal_size(tree.size_bytes)) for tree in garbage.trees]
    objects += [(str(folder), "") for folder in garbage.folders]
    verb, freed = "would be removed" if dry_run else "removed", decimal_size(garbage.freed_bytes)
    log.info(f"{len(objects)} objects {verb}", project=project, freed=freed, left_bytes=garbage.left_bytes)
    rows = [{"object": name, "size": size, "": verb} for name, size in objects]
    create_table_artifact(rows, key=artifact_key("garbage", project))
    return len(garbage.blobs)


@flow(name="forget-runs", flow_run_name="{project}", on_running=[drop_missed])
def forget_old_runs(project: str, days: int = 90) -> int:
    """Remove the project's old runs from Prefect's server, and return how many were removed.

    No build depends on them: the results that tasks remember are in the store.

    Args:
        project: The project.
        days: For how many days a run is kept after its end.
    """
    logs.configure()
    tags = FlowRunFilterTags(all_=[f"project:{project}"])
    old = FlowRunFilter(tags=tags, end_time=ended_before(datetime.now(UTC) - timedelta(days=days)))
    removed = 0
    with get_client(sync_client=True) as client:
        while count := forget_runs(old, client):
            removed += count
    log.info(f"{removed} runs forgotten", project=project, days=days)
    return removed


@flow(name="check-installation", flow_run_name="{project}", on_running=[drop_missed])
def check_installation(project: str) -> None:
    """Look for problems that are near: keys and signatures that expire soon, and disks that fill up.

    The run fails when there are any, naming all of them, so that whoever is told of failed runs is told of this.

    Args:
        project: The project.

    Raises:
        AttentionError: Something needs attention.
    """
    logs.configure()
    site = Site.here()
    problems = health.problems(site.project().config.maintenance, site.store(), datetime.now(UTC))
    listed = "\n".join(f"- {problem}" for problem in problems) or "Nothing needs attention."
    create_markdown_artifact(f"# {project}\n\n{listed}\n", key=artifact_key("check", project))
    if problems:
        raise AttentionError(
            "; ".join(problems), where=project, resolution="docs/operations.md says what to do about each"
        )
    log.info("nothing needs attention", project=project)
