"""From the published builds to a channel: which build it may take, and its next version made of that build."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from coreimage import publication, system_image
from coreimage.config import Project
from coreimage.errors import NotFoundError, UsageError
from coreimage.http import Fetch
from coreimage.model import Architecture, Candidate, PublishedBuild, Release, Value
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.publication import BuildTree
from coreimage.signing import Signer
from coreimage.storage import Store
from coreimage.system_image import Gathering

log = structlog.get_logger("coreimage.intake")


class Intake(Value):
    """`release` is None where the channel wants a boot test and the build has not passed one: the candidate waits."""

    candidate: Candidate
    release: Release | None


def takeable_build(project: Project, channel: str, device: str, *, store: Store) -> PublishedBuild:
    """The newest published build that the channel may take for a device: any, or the newest that is marked good.

    Builds are compared numerically: `.10` is after `.2`. Raises NotFoundError when there is none.
    """
    config, tree = project.channel(channel), _tree(project, channel)
    if config.import_policy == "good":
        build_id = publication.current_build(tree, project.config.devices[device].architecture, store=store)
    else:
        build_id = max(publication.complete_builds(tree, store=store), default=None)
    if build_id is None:
        what = "good build" if config.import_policy == "good" else "build"
        raise NotFoundError(
            f"there is no published {what} to take", where=tree.prefix, resolution=f"`coreimage build {channel}`"
        )
    return publication.read_build(tree, build_id, store=store)


def import_channel(
    project: Project,
    channel: str,
    device: str,
    *,
    store: Store,
    signer: Signer,
    now: Callable[[], datetime],
    fetch: Fetch,
    run: Run = run_process,
) -> Intake:
    """Makes the channel's next version of the build that it may take, and releases it unless it must boot first.

    What is the newest version already stays it. Raises UsageError for a channel that is filled by promotion only.
    """
    config = project.channel(channel)
    if config.type == "manual":
        raise UsageError(
            "the channel is filled by hand", where=channel, resolution=f"`coreimage promote FROM {channel} --device D`"
        )
    published = takeable_build(project, channel, device, store=store)
    gathering = Gathering(
        device=device,
        architecture=project.config.devices[device].architecture,
        compression=config.compression,
        folder=project.folder,
        store=store,
        signer=signer,
        fetch=fetch,
        now=now,
        run=run,
    )
    candidate = system_image.import_build(
        published,
        channel,
        device,
        store=store,
        signer=signer,
        run=run,
        now=now,
        description=config.description,
        compression=config.compression,
        delta_bases=config.delta_bases,
        server=project.server(channel),
        components=system_image.gather(config.components, gathering),
    )
    architecture = project.config.devices[device].architecture
    if config.boot_test and not _is_good(project, channel, published, architecture, store=store):
        log.info("candidate waits for a boot test", channel=channel, device=device, version=candidate.version)
        return Intake(candidate=candidate, release=None)
    release = system_image.release_candidate(candidate, store=store, signer=signer, now=now)
    return Intake(candidate=candidate, release=release)


def _is_good(
    project: Project, channel: str, published: PublishedBuild, architecture: Architecture, *, store: Store
) -> bool:
    build_id = publication.parse_build_id(published.build_id)
    return architecture in publication.good_architectures(_tree(project, channel), build_id, store=store)


def _tree(project: Project, channel: str) -> BuildTree:
    config = project.channel(channel)
    return BuildTree(project=project.config.project, series=config.series, image_type=config.image_type)
