"""Removes builds that retention gives up: the commit marker first, so that no reader ever sees half a build."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from coreimage.model import TEXT
from coreimage.publication.build_id import BuildId, parse_build_id, utc_day
from coreimage.publication.builds import Survey, survey
from coreimage.publication.documents import ContentEntry, Current, Pending, Reservation
from coreimage.publication.layout import CHECKSUMS, PINNED, BuildTree
from coreimage.publication.pointers import read_document
from coreimage.retention import Dated, expired
from coreimage.storage import Store, read_bytes

log = structlog.get_logger("coreimage.publication")

ABANDONED_AFTER = timedelta(days=2)
"""An incomplete build whose newest object is older than this is nobody's work in progress."""


def expire_builds(
    tree: BuildTree,
    *,
    keep_count: int,
    keep_days: int,
    store: Store,
    now: datetime,
    dry_run: bool = False,
) -> tuple[str, ...]:
    """Removes builds, and gives the ids of those removed (with `dry_run`: those that would be), oldest first.

    Kept is what `pending.json` and `current.json` name, what is pinned, the newest `keep_count`, and everything of
    the last `keep_days` days (UTC); today's always, since an id must not be given twice. Incomplete builds count for
    nothing and go when abandoned. With a build goes its reservation: its content, published again, gets a new id.
    """
    found = survey(tree, store=store)
    builds = [Dated(build_id, build_id.day) for build_id in found.complete]
    protected = protected_builds(tree, store=store) | found.pinned
    old = expired(builds, protected=protected, keep_count=keep_count, keep_days=max(keep_days, 1), today=utc_day(now))
    due = sorted([*(item.id for item in old), *_abandoned(found, now)])
    removed = [build_id for build_id in due if dry_run or _removed(tree, build_id, found, store)]
    return tuple(str(build_id) for build_id in removed)


def protected_builds(tree: BuildTree, *, store: Store) -> set[BuildId]:
    """What the pointers name."""
    pending = read_document(store, tree.pending_key, Pending)
    current = read_document(store, tree.current_key, Current)
    named = [good.build_id for good in current.architectures.values()] if current else []
    newest = [pending.build_id, *pending.architectures.values()] if pending else []
    return {parse_build_id(build_id) for build_id in [*named, *newest]}


def _abandoned(found: Survey, now: datetime) -> list[BuildId]:
    """Also by its day: the id of a day that goes on must not become free again."""
    return [
        build_id
        for build_id in found.incomplete
        if build_id.day < utc_day(now)
        and build_id not in found.pinned
        and all(info.modified < now - ABANDONED_AFTER for info in found.objects.get(build_id, ()))
    ]


def _removed(tree: BuildTree, build_id: BuildId, found: Survey, store: Store) -> bool:
    """The marker first; the reservation last, so that a killed removal leaves an id that is still taken.

    Whoever pins looks for the marker after the pin, and we for the pin after the marker: so a pin that was accepted
    since the survey is seen here, and its build stays.
    """
    marker = tree.key(build_id, CHECKSUMS)
    checksums = read_bytes(store, marker)
    store.delete([marker])
    if store.head(tree.key(build_id, PINNED)) is not None:
        if checksums is not None:
            store.put_bytes(marker, checksums, media_type=TEXT, if_absent=True)
        return False
    files = [info.key for info in found.objects.get(build_id, ())]
    store.delete([*files, *_entry(tree, build_id, store)])
    store.delete([tree.reservation_key(build_id)])
    log.info("removed", build=tree.build_prefix(build_id))
    return True


def _entry(tree: BuildTree, build_id: BuildId, store: Store) -> list[str]:
    """The key that says which content has this id, unless another build has that content by now."""
    reservation = read_document(store, tree.reservation_key(build_id), Reservation)
    if reservation is None:
        return []
    key = tree.content_key(reservation.content_sha256)
    entry = read_document(store, key, ContentEntry)
    return [key] if entry and entry.build_id == str(build_id) else []
