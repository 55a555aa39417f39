"""What retention gives up of a channel: dated builds, versions, disk images. The rule is `coreimage.retention`'s."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from coreimage.config import Project, RetentionConfig
from coreimage.disk_image import expire_images
from coreimage.model import Value
from coreimage.publication import BuildTree, expire_builds
from coreimage.signing import Signer
from coreimage.storage import Store
from coreimage.system_image import Expired, expire_versions, named_versions


class Retired(Value):
    """What went, or would go: build ids of the channel's tree, versions by device, and the prefixes of disk images."""

    builds: tuple[str, ...] = ()
    versions: tuple[Expired, ...] = ()
    images: tuple[str, ...] = ()


def build_tree(project: Project, channel: str) -> BuildTree:
    """Where a channel's dated builds are; other channels may have theirs there too."""
    config = project.channel(channel)
    return BuildTree(project=project.config.project, series=config.series, image_type=config.image_type)


def expire_channel(
    project: Project,
    channel: str,
    *,
    store: Store,
    signer: Signer,
    now: Callable[[], datetime],
    dry_run: bool = False,
) -> Retired:
    """Removes what the channel's `retention` gives up; what pointers name and what is pinned stays.

    A tree of builds that several channels share keeps what any of them keeps. An image stays as long as the channel
    has its version.
    """
    retention = project.channel(channel).retention or RetentionConfig()
    builds = expire_builds(
        build_tree(project, channel),
        keep_count=max(each.keep_count for each in _sharing(project, channel)),
        keep_days=max(each.keep_days for each in _sharing(project, channel)),
        now=now(),
        store=store,
        dry_run=dry_run,
    )
    there = named_versions(channel, store=store, signer=signer)
    gone = (
        expire_versions(channel, retention.keep_count, store=store, signer=signer, now=now, dry_run=dry_run)
        if there
        else ()
    )
    images: list[str] = []
    for device, versions in there.items():
        left = versions.difference(*(each.versions for each in gone if each.device == device))
        images += expire_images(
            channel, device, versions=left, keep_days=retention.keep_days, store=store, now=now(), dry_run=dry_run
        )
    return Retired(builds=builds, versions=gone, images=tuple(images))


def _sharing(project: Project, channel: str) -> list[RetentionConfig]:
    """The retention of all channels whose builds stand in the same tree."""
    tree = build_tree(project, channel)
    names = [name for name in project.config.channels if build_tree(project, name) == tree]
    said = [project.channel(name).retention for name in names]
    return [retention for retention in said if retention] or [RetentionConfig()]
