"""Removes builds that retention gives up: the commit marker first, so that no reader ever sees half a build."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import structlog

from coreimage.publication.build_id import BuildId, parse_build_id, utc_day
from coreimage.publication.builds import complete_builds, taken_ids
from coreimage.publication.documents import Current, Pending
from coreimage.publication.layout import CHECKSUMS, BuildTree
from coreimage.publication.pointers import read_document
from coreimage.retention import Dated, expired
from coreimage.storage import Store

log = structlog.get_logger("coreimage.publication")

ABANDONED_AFTER = timedelta(days=2)
"""An incomplete build whose newest object is older than this is nobody's work in progress."""


def expire_builds(
    tree: BuildTree,
    *,
    keep_count: int,
    keep_days: int,
    pinned: Collection[str] = (),
    store: Store,
    now: datetime,
    dry_run: bool = False,
) -> tuple[str, ...]:
    """Removes builds, and gives the ids of those removed (with `dry_run`: those that would be), oldest first.

    Kept is what `pending.json` and `current.json` name, what is `pinned`, the newest `keep_count`, and everything of
    the last `keep_days` days (UTC); today's always, since an id must not be given twice. Incomplete builds count for
    nothing and go when abandoned. With a build goes its reservation: its content, published again, gets a new id.
    """
    builds = [Dated(build_id, build_id.day) for build_id in complete_builds(tree, store=store)]
    protected = protected_builds(tree, store=store) | {parse_build_id(build_id) for build_id in pinned}
    old = expired(builds, protected=protected, keep_count=keep_count, keep_days=max(keep_days, 1), today=utc_day(now))
    removed = sorted([*(item.id for item in old), *_abandoned(tree, store, now)])
    for build_id in removed if not dry_run else ():
        _remove(tree, build_id, store)
        log.info("removed", build=tree.build_prefix(build_id))
    return tuple(str(build_id) for build_id in removed)


def protected_builds(tree: BuildTree, *, store: Store) -> set[BuildId]:
    """What the pointers name."""
    pending = read_document(store, tree.pending_key, Pending)
    current = read_document(store, tree.current_key, Current)
    named = [good.build_id for good in current.architectures.values()] if current else []
    return {parse_build_id(build_id) for build_id in [*named, *([pending.build_id] if pending else [])]}


def _abandoned(tree: BuildTree, store: Store, now: datetime) -> list[BuildId]:
    incomplete = set(taken_ids(tree, store=store)) - set(complete_builds(tree, store=store))
    return [build_id for build_id in incomplete if _is_abandoned(tree, build_id, store, now)]


def _is_abandoned(tree: BuildTree, build_id: BuildId, store: Store, now: datetime) -> bool:
    """Also by its day: the id of a day that goes on must not become free again."""
    modified = [info.modified for key in _keys(tree, build_id, store) if (info := store.head(key))]
    return build_id.day < utc_day(now) and all(when < now - ABANDONED_AFTER for when in modified)


def _remove(tree: BuildTree, build_id: BuildId, store: Store) -> None:
    """The marker first; the reservation last, so that a killed removal leaves an id that is still taken."""
    store.delete([tree.key(build_id, CHECKSUMS)])
    *files, reservation = _keys(tree, build_id, store)
    store.delete(files)
    store.delete([reservation])


def _keys(tree: BuildTree, build_id: BuildId, store: Store) -> list[str]:
    files = [info.key for info in store.list(f"{tree.build_prefix(build_id)}/")]
    return [*files, tree.reservation_key(build_id)]
