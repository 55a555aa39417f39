"""Pins: builds that somebody wants to stay, however old they get."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from coreimage.config import did_you_mean
from coreimage.errors import NotFoundError
from coreimage.publication.build_id import BuildId
from coreimage.publication.builds import complete_builds, is_complete
from coreimage.publication.documents import Pin
from coreimage.publication.layout import PINNED, BuildTree
from coreimage.publication.pointers import read_document, swap_document
from coreimage.storage import Store

log = structlog.get_logger("coreimage.publication")


def pin_build(tree: BuildTree, build_id: BuildId, note: str = "", *, store: Store, now: datetime) -> bool:
    """Keeps a published build from retention until it is unpinned; gives whether that changed anything.

    Pinned again, it gets the new `note`. Raises NotFoundError for a build that is not there, or goes just now.
    """
    _require_published(tree, build_id, store)
    before = read_pin(tree, build_id, store=store)
    pin = Pin(build_id=str(build_id), pinned=now.astimezone(UTC).isoformat(), note=note)
    swap_document(store, tree.key(build_id, PINNED), Pin, lambda found: found if found and found.note == note else pin)
    if not is_complete(tree, build_id, store=store):
        store.delete([tree.key(build_id, PINNED)])
        _require_published(tree, build_id, store)
    changed = before is None or before.note != note
    if changed:
        log.info("pinned", build=tree.build_prefix(build_id), note=note)
    return changed


def unpin_build(tree: BuildTree, build_id: BuildId, *, store: Store) -> bool:
    """Leaves a build to retention again; gives whether it was pinned. Raises NotFoundError as above."""
    _require_published(tree, build_id, store)
    changed = store.head(tree.key(build_id, PINNED)) is not None
    if changed:
        store.delete([tree.key(build_id, PINNED)])
        log.info("unpinned", build=tree.build_prefix(build_id))
    return changed


def read_pin(tree: BuildTree, build_id: BuildId, *, store: Store) -> Pin | None:
    return read_document(store, tree.key(build_id, PINNED), Pin)


def _require_published(tree: BuildTree, build_id: BuildId, store: Store) -> None:
    if is_complete(tree, build_id, store=store):
        return
    known = [str(other) for other in complete_builds(tree, store=store)]
    raise NotFoundError(
        f"build {build_id} is not published{did_you_mean(str(build_id), known)}",
        where=tree.prefix,
        resolution=f"there are {', '.join(known[-10:]) or 'none'}",
    )
