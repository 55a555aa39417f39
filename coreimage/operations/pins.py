"""Pinning published builds, with the pages that show it. Versions of channels are pinned by `system_image`."""

from __future__ import annotations

from datetime import datetime

from coreimage import publication
from coreimage.pages import write_pages
from coreimage.project.config import Project
from coreimage.storage import Store


def pin_build(project: Project, channel: str, build: str, note: str, *, store: Store, now: datetime) -> bool:
    """Keep a published build of a channel from retention until it is unpinned.

    Args:
        project: The project that has the channel.
        channel: A channel whose builds it belongs to.
        build: A build id, such as `20261123.1`.
        note: Why the build is kept; pages and listings show it.
        store: The store that has the build.
        now: The time of the pin.

    Returns:
        Whether it was not pinned before, or with another note.

    Raises:
        NotFoundError: There is no such channel or build.
        UsageError: `build` is no build id.
    """
    builds, build_id = publication.build_tree(project, channel), publication.parse_build_id(build)
    changed = publication.pin_build(builds, build_id, note, store=store, now=now)
    write_pages(store=store, channels=[], trees=[builds], changed=[build_id])
    return changed


def unpin_build(project: Project, channel: str, build: str, *, store: Store) -> bool:
    """Leave a published build to retention again, and return whether it was pinned; see `pin_build`."""
    builds, build_id = publication.build_tree(project, channel), publication.parse_build_id(build)
    changed = publication.unpin_build(builds, build_id, store=store)
    write_pages(store=store, channels=[], trees=[builds], changed=[build_id])
    return changed
