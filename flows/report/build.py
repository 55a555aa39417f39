"""The tasks that report a build: its announcement, the run's name, its report in Prefect's UI and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from coreimage.logs import story
from coreimage.model import LOG, BootReport, Candidate, DiskImage, PublishedBuild, Release
from coreimage.storage import put_blob_bytes
from flows.report.artifacts import news, show_result, why
from flows.report.result import ArchitectureResult, BuildResult, DeviceResult
from flows.running.architecture import ArchitectureOutcome
from tasks.factory import live_task
from tasks.progress import current_progress
from tasks.rootfs import ChosenLock
from tasks.site import Site
from tasks.story import duration

log = structlog.get_logger("coreimage.build")

_NAMED_DEVICES = 3


@live_task(title="Announcing the build", quiet=True)
def announce_build(channel: str, devices: tuple[str, ...], *, site: Site) -> None:
    """Tell the channel and the devices that will be built."""
    log.info("building", channel=channel, devices=",".join(devices), store=site.store().url)
    story.info(f"Building {channel} for {', '.join(devices)}")


@live_task(title="Naming the run", quiet=True)
def name_run(channel: str, devices: tuple[str, ...], published: PublishedBuild) -> None:
    """Rename the flow run that we are in, such as to `debian-core/13/edge generic_amd64 20261123.1`."""
    named = " ".join(devices) if len(devices) <= _NAMED_DEVICES else f"{len(devices)} devices"
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, name=f"{channel} {named} {published.build_id}")


@live_task(title="Reporting the build", quiet=True)
def report_build(
    channel: str,
    published: PublishedBuild,
    *,
    candidates: Mapping[str, Candidate],
    images: Mapping[str, DiskImage],
    boots: Mapping[str, tuple[BootReport, ...]],
    releases: Mapping[str, Release],
    locks: Sequence[ChosenLock],
    architectures: Sequence[ArchitectureOutcome],
    web: str,
    site: Site,
) -> BuildResult:
    """Compose the result of a build, show its report, and return it.

    Args:
        channel: The channel.
        published: The published build.
        candidates: The candidates by device, in the channel's order, as are images, boots and releases.
        images: The disk images that booted.
        boots: One report for each firmware of the boot test.
        releases: The releases that the channel moved to.
        locks: The locks that the build is made from.
        architectures: The outcome of each architecture, failed ones included.
        web: The public address of the store; empty when it has none.
        site: Where the run works.
    """
    progress, store = current_progress(), site.store()
    worked = any(each.failure for each in architectures) or not all(task.cached for task in progress.finished)
    result = BuildResult(
        channel=channel,
        published=published,
        devices=tuple(
            DeviceResult(
                device=name, candidate=candidate, image=images[name], boots=boots[name], release=releases[name]
            )
            for name, candidate in candidates.items()
        ),
        tasks=progress.finished,
        architectures=tuple(
            ArchitectureResult(
                architecture=each.architecture,
                log=put_blob_bytes(store, each.log.encode(), LOG) if worked else None,
                failure=each.failure,
            )
            for each in architectures
        ),
    )
    show_result(result, {lock.part: lock.changes for lock in locks}, web=web, store=store)
    progress.finish(news(result))
    log.info(why(result), channel=channel, versions=",".join(str(each.release.version) for each in result.devices))
    story.info(f"{news(result)} ({duration(progress.elapsed_s)})")
    return result
