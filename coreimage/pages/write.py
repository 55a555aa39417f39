"""Writing the pages into the store, and deleting those of channels and devices that no longer exist."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import structlog

from coreimage.model import JSON
from coreimage.pages.builds import BuildReader, build_trees
from coreimage.pages.catalogue import CATALOGUE, catalogue
from coreimage.pages.channels import ChannelReader
from coreimage.pages.content import Channel
from coreimage.pages.render import Page, render, render_index
from coreimage.publication import BuildId, BuildTree
from coreimage.publication.builds import Survey, survey_builds
from coreimage.publication.layout import PAGE
from coreimage.storage import ObjectInfo, Store
from coreimage.system_image.documents import layout

log = structlog.get_logger("coreimage.pages")

HTML = "text/html; charset=utf-8"


def write_pages(
    *,
    store: Store,
    channels: Collection[str] | None = None,
    trees: Sequence[BuildTree] | None = None,
    changed: Collection[BuildId] = (),
) -> int:
    """Write the pages of channels and builds, the lists of builds, and the index.

    Args:
        store: The store that is read, and that the pages are written to.
        channels: Channels that changed; the pages of those that follow them are written too. None: all.
        trees: Trees of builds that changed; of their builds only those are written that have something newer than
            their page, or are in `changed`. None: all builds of all trees.
        changed: Builds whose page is to be written in any case.

    Returns:
        How many pages were written.
    """
    all_trees = build_trees(store)
    build_reader = BuildReader(store)
    channel_reader = ChannelReader(store, all_trees, build_reader)
    if channels is not None:
        channels = channel_reader.with_followers(channels)
    surveys = [(tree, survey_builds(tree, store=store)) for tree in (all_trees if trees is None else trees)]
    all_channels = channel_reader.channels(channels)
    lists = [(tree, build_reader.builds(tree, surveyed)) for tree, surveyed in surveys if surveyed.complete]

    for tree, builds in lists:
        store.put_bytes(f"{tree.prefix}/{CATALOGUE}", catalogue(tree, builds), media_type=JSON)
    pages = (
        *_build_pages(build_reader, surveys, None if trees is None else changed),
        *(render(builds) for _, builds in lists),
        *_channel_pages(all_channels, channels),
    )
    for page in pages:
        store.put_bytes(page.key, page.html, media_type=HTML)
    store.delete(_stale_pages(store, all_channels))
    log.info("pages written", pages=len(pages))
    return len(pages)


def _build_pages(
    reader: BuildReader, surveys: Sequence[tuple[BuildTree, Survey]], changed: Collection[BuildId] | None
) -> Iterator[Page]:
    """Render the pages of builds that are `changed` (None: all are) or have something newer than their page."""
    for tree, surveyed in surveys:
        for build_id in surveyed.complete:
            if changed is None or build_id in changed or _is_outdated(tree, build_id, surveyed.objects[build_id]):
                yield render(reader.build(tree, build_id, surveyed))


def _is_outdated(tree: BuildTree, build_id: BuildId, objects: Sequence[ObjectInfo]) -> bool:
    """Return whether an object of the build is newer than its page; objects are written once, so it shows the older."""
    page = next((info for info in objects if info.key == tree.key(build_id, PAGE)), None)
    return page is None or any(info.modified >= page.modified for info in objects if info is not page)


def _channel_pages(channels: Sequence[Channel], chosen: Collection[str] | None) -> Iterator[Page]:
    """Render the pages of `chosen` channels (None: of all) with their devices, and the index."""
    for channel in channels:
        if chosen is None or channel.name in chosen:
            yield render(channel)
            for device in channel.devices:
                yield render(device)
    yield render_index([channel for channel in channels if not channel.hidden])


def _stale_pages(store: Store, channels: Sequence[Channel]) -> list[str]:
    """Return the keys of the pages of channels and devices that no longer exist."""
    kept = {channel.page for channel in channels} | {device.page for each in channels for device in each.devices}
    keys = (info.key for info in store.list(layout.ROOT))
    return [key for key in keys if key.endswith(f"/{PAGE}") and key not in kept]
