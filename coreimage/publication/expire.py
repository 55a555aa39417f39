"""Removal of the builds that retention gives up: SHA256SUMS first, so that no reader ever sees half a build."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from coreimage.model import TEXT
from coreimage.publication.build_id import BuildId, parse_build_id, utc_day
from coreimage.publication.builds import Survey, survey_builds
from coreimage.publication.documents import ContentEntry, Current, Pending, Reservation, read_document
from coreimage.publication.layout import PINNED, BuildTree
from coreimage.retention import Dated, expired
from coreimage.storage import Store, read_bytes
from coreimage.storage.checksums import CHECKSUMS

log = structlog.get_logger("coreimage.publication")

ABANDONED_AFTER = timedelta(days=2)
"""The age of its newest object from which an incomplete build counts as abandoned."""


def expire_builds(
    tree: BuildTree,
    *,
    keep_count: int,
    keep_days: int,
    store: Store,
    now: datetime,
    dry_run: bool = False,
) -> tuple[str, ...]:
    """Remove old builds, and incomplete ones that were abandoned.

    A complete build stays if `pending.json` or `current.json` names it, if it is pinned, if it is among the newest
    `keep_count`, or if it is of the last `keep_days` days (UTC); one of today always stays, since an id must not be
    given twice. The reservation is removed with its build: the same content, published again, gets a new id.

    Returns:
        The ids of the builds that were removed (with `dry_run`: that would be), oldest first.
    """
    survey, today = survey_builds(tree, store=store), utc_day(now)
    old = expired(
        [Dated(build_id, build_id.day) for build_id in survey.complete],
        protected=named_builds(tree, store=store) | survey.pinned,
        keep_count=keep_count,
        keep_days=max(keep_days, 1),
        today=today,
    )
    # The day is looked at too: the id of a day that goes on must not become free again.
    abandoned = [
        build_id
        for build_id in survey.incomplete
        if build_id.day < today
        and build_id not in survey.pinned
        and all(info.modified < now - ABANDONED_AFTER for info in survey.objects.get(build_id, ()))
    ]
    due = sorted([*(item.id for item in old), *abandoned])
    return tuple(str(build_id) for build_id in due if dry_run or _remove(tree, build_id, survey, store))


def named_builds(tree: BuildTree, *, store: Store) -> set[BuildId]:
    """Return the builds that `pending.json` and `current.json` name."""
    pending = read_document(store, tree.pending_key, Pending)
    current = read_document(store, tree.current_key, Current)
    good = [marked.build_id for marked in current.architectures.values()] if current else []
    newest = [pending.build_id, *pending.architectures.values()] if pending else []
    return {parse_build_id(build_id) for build_id in [*good, *newest]}


def _remove(tree: BuildTree, build_id: BuildId, survey: Survey, store: Store) -> bool:
    """Remove a build, unless it was pinned since the survey; return whether it was removed.

    SHA256SUMS is deleted first, the reservation last, so that a killed removal leaves an id that is still taken.
    `pin_build` looks for SHA256SUMS after it wrote the pin, and this looks for the pin after it deleted SHA256SUMS: so
    a pin that was accepted is seen here, and its build stays.
    """
    key = tree.key(build_id, CHECKSUMS)
    checksums = read_bytes(store, key)
    store.delete([key])
    if store.head(tree.key(build_id, PINNED)) is not None:
        if checksums is not None:
            store.put_bytes(key, checksums, media_type=TEXT, if_absent=True)
        return False
    store.delete([info.key for info in survey.objects.get(build_id, ())])
    reservation = read_document(store, tree.reservation_key(build_id), Reservation)
    if reservation:
        content_key = tree.content_key(reservation.content_sha256)
        entry = read_document(store, content_key, ContentEntry)
        if entry and entry.build_id == str(build_id):  # else another build has that content by now
            store.delete([content_key])
    store.delete([tree.reservation_key(build_id)])
    log.info("build removed", build=tree.build_prefix(build_id))
    return True
