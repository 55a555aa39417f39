"""Writes the pages into the store. Pages of what is gone go."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import structlog

from coreimage.model import JSON
from coreimage.pages.catalogue import CATALOGUE, catalogue
from coreimage.pages.read import Reader, build_trees, surveyed
from coreimage.pages.render import Page, render
from coreimage.pages.site import Channel
from coreimage.publication import BuildId, BuildTree
from coreimage.publication.builds import Survey
from coreimage.publication.layout import PAGE
from coreimage.storage import ObjectInfo, Store
from coreimage.system_image import layout

log = structlog.get_logger("coreimage.pages")

HTML = "text/html; charset=utf-8"


def write_pages(
    *,
    store: Store,
    channels: Collection[str] | None = None,
    trees: Sequence[BuildTree] | None = None,
    changed: Collection[BuildId] = (),
) -> int:
    """Writes the pages of `channels`, of those that follow them, and of the builds in `trees` (None: of all), and the
    index; how many they were.

    With `trees`, of their builds only those are written that have something newer than their page, or are `changed`.
    A channel that is no longer there has its pages removed.
    """
    all_trees = build_trees(store)
    chosen = all_trees if trees is None else trees
    reader = Reader(store, all_trees)
    channels = None if channels is None else reader.with_followers(channels)
    written = 0
    found = list(surveyed(chosen, store))
    everything = reader.channels(channels)
    listed = [(tree, reader.builds(tree, seen)) for tree, seen in found if seen.complete]
    for tree, builds in listed:
        store.put_bytes(f"{tree.prefix}/{CATALOGUE}", catalogue(tree, builds), media_type=JSON)
    pages = (
        *_build_pages(reader, found, changed, all_of_them=trees is None),
        *(render("builds", builds) for _, builds in listed),
        *_channel_pages(everything, channels),
    )
    for page in pages:
        store.put_bytes(page.key, page.html, media_type=HTML)
        written += 1
    store.delete(_stale(store, everything))
    log.info("pages written", pages=written)
    return written


def _build_pages(
    reader: Reader, found: Sequence[tuple[BuildTree, Survey]], changed: Collection[BuildId], *, all_of_them: bool
) -> Iterator[Page]:
    for tree, seen in found:
        for build_id in seen.complete:
            if all_of_them or build_id in changed or _outdated(tree, build_id, seen.objects[build_id]):
                yield render("build", reader.build(tree, build_id, seen))


def _outdated(tree: BuildTree, build_id: BuildId, objects: Sequence[ObjectInfo]) -> bool:
    """Objects of a build are written once, so a page shows all that was there before it."""
    page = next((info for info in objects if info.key == tree.key(build_id, PAGE)), None)
    return page is None or any(info.modified >= page.modified for info in objects if info is not page)


def _channel_pages(everything: Sequence[Channel], wanted: Collection[str] | None) -> Iterator[Page]:
    for channel in everything:
        if wanted is None or channel.name in wanted:
            yield render("channel", channel)
            for device in channel.devices:
                yield render("device", device)
    shown = tuple(channel for channel in everything if not channel.hidden)
    yield render("index", shown, key=PAGE)


def _stale(store: Store, everything: Sequence[Channel]) -> list[str]:
    kept = {channel.page for channel in everything} | {device.page for each in everything for device in each.devices}
    keys = (info.key for info in store.list(layout.ROOT))
    return [key for key in keys if key.endswith(f"/{PAGE}") and key not in kept]
