"""Import of published builds into a channel: the choice of the build, and the channel's next version from it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from coreimage import publication, system_image
from coreimage.errors import NotFoundError, UsageError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.http import Fetch
from coreimage.model import Candidate, PublishedBuild, Release, Value
from coreimage.project.config import Project
from coreimage.storage import Store
from coreimage.system_image import ChannelTree

log = structlog.get_logger("coreimage.import")


class ImportResult(Value):
    """The result of an import for one device. `release` is None while the candidate waits for a boot test."""

    candidate: Candidate
    release: Release | None


def import_channel(
    tree: ChannelTree,
    project: Project,
    channel: str,
    devices: Sequence[str],
    *,
    fetch: Fetch,
    run: Run = run_process,
) -> tuple[ImportResult, ...]:
    """Import the newest build that the channel may take as its next version for each device, and publish the keyrings.

    The version is released unless the channel has a boot test that the build has not passed. A build that is the newest
    version already is not imported again.

    Args:
        tree: The tree of the channel and its builds.
        project: The project, which says which builds the channel may take.
        channel: A channel of the project.
        devices: Devices of the channel.
        fetch: Downloads the components of the version that are on other servers.
        run: Runs the programs that payloads are made with.

    Raises:
        NotFoundError: There is no such channel, or no build that it may take.
        UsageError: The channel is filled by promotion only.
    """
    system_image.publish_keyrings(tree)
    return tuple(_import_device(tree, project, channel, device, fetch=fetch, run=run) for device in devices)


def importable_build(project: Project, channel: str, device: str, *, store: Store) -> PublishedBuild:
    """Return the newest build that the channel may take for a device: of all, or of those marked good.

    Build ids are compared numerically: `.10` is newer than `.2`.

    Raises:
        NotFoundError: There is no such build.
    """
    config, builds = project.channel(channel), publication.build_tree(project, channel)
    if config.import_policy == "good":
        build_id = publication.current_build(builds, project.config.devices[device].architecture, store=store)
    else:
        build_id = max(publication.complete_builds(builds, store=store), default=None)
    if build_id is None:
        what = "good build" if config.import_policy == "good" else "build"
        raise NotFoundError(
            f"there is no published {what} to import", where=builds.prefix, resolution=f"`coreimage build {channel}`"
        )
    return publication.read_build(builds, build_id, store=store)


def _import_device(
    tree: ChannelTree, project: Project, channel: str, device: str, *, fetch: Fetch, run: Run
) -> ImportResult:
    config = project.channel(channel)
    if config.type == "manual":
        raise UsageError(
            "the channel is filled by hand", where=channel, resolution=f"`coreimage promote FROM {channel} --device D`"
        )
    published = importable_build(project, channel, device, store=tree.store)
    architecture = project.config.devices[device].architecture
    components = system_image.gather_components(
        tree,
        config.components,
        device,
        architecture,
        compression=config.compression,
        folder=project.folder,
        fetch=fetch,
        run=run,
    )
    candidate = system_image.import_build(
        tree,
        published,
        channel,
        device,
        run=run,
        description=config.description,
        compression=config.compression,
        delta_bases=config.delta_bases,
        server=project.server(channel),
        components=components,
    )
    if config.boot_test and architecture not in publication.good_architectures(published, store=tree.store):
        log.info("candidate waits for a boot test", channel=channel, device=device, version=candidate.version)
        return ImportResult(candidate=candidate, release=None)
    return ImportResult(candidate=candidate, release=system_image.release_candidate(tree, candidate))
