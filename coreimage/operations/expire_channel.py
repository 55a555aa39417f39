"""Removal of the dated builds, versions and disk images that a channel's `retention` gives up, and of orphans in the
web root. `coreimage.retention` decides which items expire."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from coreimage.disk_image import expire_images
from coreimage.model import Value
from coreimage.pages import write_pages
from coreimage.project.config import Project, RetentionConfig
from coreimage.publication import BuildTree, build_tree, expire_builds
from coreimage.system_image import Expired, Orphan, collect_orphans, expire_versions, named_versions, orphans
from coreimage.system_image.server import ChannelTree


class ExpiredItems(Value):
    """The items of one channel that retention gave up: build ids, versions by device, prefixes of disk images."""

    builds: tuple[str, ...] = ()
    versions: tuple[Expired, ...] = ()
    images: tuple[str, ...] = ()


class CleanUp(Value):
    """The items that a clean-up removed, or would remove; `channels` has the channels of which something expired."""

    channels: Mapping[str, ExpiredItems]
    orphans: tuple[Orphan, ...]


def clean_up_channels(
    tree: ChannelTree, project: Project, channels: Sequence[str], *, dry_run: bool = False
) -> CleanUp:
    """Remove the items that the retention of channels gives up and all orphans of the web root, and write the pages.

    A build that several channels share is listed with the first of them, in a dry run as in a real one.

    Args:
        tree: The tree of the channels and their builds.
        project: The project with the retention of its channels.
        channels: Channels of the project.
        dry_run: Remove nothing, and only return what would be removed.
    """
    items: dict[str, ExpiredItems] = {}
    listed: dict[BuildTree, set[str]] = defaultdict(set)
    for channel in channels:
        each = expire_channel(tree, project, channel, dry_run=dry_run)
        before = listed[build_tree(project, channel)]
        builds = tuple(build for build in each.builds if build not in before)
        before.update(builds)
        items[channel] = each.model_copy(update={"builds": builds})
    expired = {channel: each for channel, each in items.items() if each != ExpiredItems()}
    if expired and not dry_run:
        trees = list(dict.fromkeys(build_tree(project, channel) for channel in expired))
        write_pages(store=tree.store, channels=list(expired), trees=trees)
    return CleanUp(channels=expired, orphans=orphans(tree) if dry_run else collect_orphans(tree))


def expire_channel(tree: ChannelTree, project: Project, channel: str, *, dry_run: bool = False) -> ExpiredItems:
    """Remove the items that the channel's retention gives up, except those that are pinned or that pointers name.

    Builds that several channels share stay as long as any of the channels keeps them, a disk image as long as its
    version.

    Raises:
        NotFoundError: The project has no such channel.
    """
    retention = project.channel(channel).retention or RetentionConfig()
    builds, sharing = build_tree(project, channel), _retention_of_builds(project, channel)
    expired_builds = expire_builds(
        builds,
        keep_count=max(each.keep_count for each in sharing),
        keep_days=max(each.keep_days for each in sharing),
        now=tree.now(),
        store=tree.store,
        dry_run=dry_run,
    )
    versions_by_device = named_versions(tree, channel)
    expired_versions: tuple[Expired, ...] = ()
    if versions_by_device:
        expired_versions = expire_versions(tree, channel, retention.keep_count, dry_run=dry_run)
    expired_images: list[str] = []
    for device, versions in versions_by_device.items():
        kept = versions.difference(*(each.versions for each in expired_versions if each.device == device))
        expired_images += expire_images(
            channel,
            device,
            versions=kept,
            keep_days=retention.keep_days,
            store=tree.store,
            now=tree.now(),
            dry_run=dry_run,
        )
    return ExpiredItems(builds=expired_builds, versions=expired_versions, images=tuple(expired_images))


def _retention_of_builds(project: Project, channel: str) -> list[RetentionConfig]:
    """Return the retention that each channel states whose builds are in the same tree; the default when none does.

    A channel that states none does not hold builds longer than those that do.
    """
    builds = build_tree(project, channel)
    sharing = [project.channel(name) for name in project.config.channels if build_tree(project, name) == builds]
    stated = [each.retention for each in sharing if each.retention and "retention" in each.model_fields_set]
    return stated or [RetentionConfig()]
