"""Pins, which keep builds from retention however old they get."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from coreimage.errors import NotFoundError, did_you_mean
from coreimage.publication.build_id import BuildId
from coreimage.publication.builds import complete_builds, is_complete
from coreimage.publication.documents import Pin, read_document, swap_document
from coreimage.publication.layout import PINNED, BuildTree
from coreimage.storage import Store

log = structlog.get_logger("coreimage.publication")


def pin_build(tree: BuildTree, build_id: BuildId, note: str = "", *, store: Store, now: datetime) -> bool:
    """Keep a published build from retention until it is unpinned; a pinned build gets the new `note`.

    Returns:
        Whether anything changed.

    Raises:
        NotFoundError: The build does not exist, or is being removed just now.
    """
    _require_published(tree, build_id, store)
    before = read_pin(tree, build_id, store=store)
    pin = Pin(build_id=str(build_id), pinned=now.astimezone(UTC).isoformat(), note=note)
    swap_document(
        store, tree.key(build_id, PINNED), Pin, lambda present: present if present and present.note == note else pin
    )
    # Removal deletes SHA256SUMS and then looks for a pin; looking in the other order, one of the two gives way.
    if not is_complete(tree, build_id, store=store):
        store.delete([tree.key(build_id, PINNED)])
        _require_published(tree, build_id, store)
    changed = before is None or before.note != note
    if changed:
        log.info("build pinned", build=tree.build_prefix(build_id), note=note)
    return changed


def unpin_build(tree: BuildTree, build_id: BuildId, *, store: Store) -> bool:
    """Leave a build to retention again.

    Returns:
        Whether it was pinned.

    Raises:
        NotFoundError: The build does not exist.
    """
    _require_published(tree, build_id, store)
    changed = store.head(tree.key(build_id, PINNED)) is not None
    if changed:
        store.delete([tree.key(build_id, PINNED)])
        log.info("build unpinned", build=tree.build_prefix(build_id))
    return changed


def read_pin(tree: BuildTree, build_id: BuildId, *, store: Store) -> Pin | None:
    """Return the pin of a build, or None when it has none."""
    return read_document(store, tree.key(build_id, PINNED), Pin)


def _require_published(tree: BuildTree, build_id: BuildId, store: Store) -> None:
    if is_complete(tree, build_id, store=store):
        return
    known = [str(other) for other in complete_builds(tree, store=store)]
    raise NotFoundError(
        f"build {build_id} is not published{did_you_mean(str(build_id), known)}",
        where=tree.prefix,
        resolution=f"the newest builds there are {', '.join(known[-10:])}" if known else "nothing is published there",
    )
