"""The tasks that import, release and sign in the channel tree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coreimage import system_image
from coreimage.model import Architecture, BootReport, Candidate, Compression, PublishedBuild, Release, Server, ToolsTree
from coreimage.project.config import ComponentConfig
from coreimage.system_image import Component
from coreimage.system_image.channels.document import read_channels, read_index
from tasks.factory import artifact_task, live_task
from tasks.site import Site


@live_task(quiet=True)
def publish_keyrings(*, site: Site) -> None:
    """Publish the keyrings that devices trust, and renew the end of the channels; doing it again changes nothing."""
    tree = site.channel_tree()
    system_image.end_overlaps(tree, Path(site.keys_folder))
    system_image.publish_keyrings(tree)
    system_image.renew_channels(tree)


@live_task(title="Looking at the components of {device}", quiet=True, dry_run=True)
def gather_components(
    configs: tuple[ComponentConfig, ...],
    device: str,
    architecture: Architecture,
    compression: Compression,
    *,
    folder: str,
    tools: ToolsTree,
    site: Site,
) -> tuple[Component, ...]:
    """Gather the components that the channel lays over rootfs and device part; they may change without the project."""
    return system_image.gather_components(
        site.channel_tree(),
        configs,
        device,
        architecture,
        compression=compression,
        folder=Path(folder),
        fetch=site.fetch(),
        run=site.run(tools),
    )


def _left_behind(candidate: Candidate, arguments: Mapping[str, Any]) -> str:
    """Refuse a remembered version that the channel has left behind: an older build comes back as a new version."""
    newest = newest_version(arguments["channel"], arguments["device"], arguments["site"])
    return "" if candidate.version >= newest else "an older build comes back as a new version"


@artifact_task(title="Making the next version for {device}", outdated=_left_behind)
def import_build(
    published: PublishedBuild,
    channel: str,
    device: str,
    *,
    description: str,
    compression: Compression,
    delta_bases: int,
    server: Server,
    components: tuple[Component, ...],
    tools: ToolsTree,
    site: Site,
) -> Candidate:
    """Make the channel's next version for a device: whole and signed, but not yet named by the channel."""
    return system_image.import_build(
        site.channel_tree(),
        published,
        channel,
        device,
        run=site.run(tools),
        description=description,
        compression=compression,
        delta_bases=delta_bases,
        server=server,
        components=components,
    )


@artifact_task(title="Releasing {candidate.channel} for {candidate.device}", exclude=["boots"])
def release_candidate(
    candidate: Candidate,
    boots: tuple[BootReport, ...],  # noqa: ARG001 - only what has booted may be released
    *,
    site: Site,
) -> Release:
    """Move the channel to the candidate, once it has booted where the channel asks for that."""
    return system_image.release_candidate(site.channel_tree(), candidate)


def newest_version(channel: str, device: str, site: Site) -> int:
    """Return the newest version of a device in a channel; 0 when there is none."""
    tree = site.channel_tree()
    return read_index(tree.store, read_channels(tree).channels, channel, device).newest_version
