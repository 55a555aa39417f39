"""What the tree no longer needs: versions beyond a channel's number, and objects that nothing names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import structlog

from coreimage.client.documents import VERSION_LIMIT, Channel, Image, Index
from coreimage.errors import UsageError
from coreimage.model import Value
from coreimage.retention import Dated, expired
from coreimage.storage import Store, read_bytes
from coreimage.system_image.channels.candidates import CANDIDATE, may_be_released
from coreimage.system_image.channels.changes import change_images
from coreimage.system_image.channels.document import (
    CurrentChannels,
    heal_pair,
    read_channels,
    read_named_index,
)
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.channel_rules import require_own_content
from coreimage.system_image.server import ChannelTree

log = structlog.get_logger("coreimage.system_image")

GRACE = timedelta(hours=48)
"""Objects younger than this stay: an import may be about to name them, a client may be downloading them."""
_ALWAYS = re.compile(r"channels\.json(\.gpg|\.asc)?|gpg/.*|robots\.txt|favicon\.ico|\.well-known/.*|.*\.html|.*\.css")
"""What is no orphan though no index names it (system-image §4.6, D19)."""
_CLAIM = re.compile(r"(?P<channel>.+)/(?P<device>[^/]+)/version-(?P<version>\d+)\.json(\.asc)?")
_CANDIDATE_INDEX = re.compile(rb'"index":"(?P<index>[^"]+)"')
_SAME_DAY = date(1970, 1, 1)
"""Versions expire by their number only: the rule of `coreimage.retention` is asked as if all were of one day."""


class Orphan(Value):
    """An object below the web root that nothing names."""

    key: str
    size_bytes: int


class Expired(Value):
    """The full versions of a device that went, or would go; sorted."""

    channel: str
    device: str
    versions: tuple[int, ...]


def expire_versions(tree: ChannelTree, channel: str, keep_count: int, *, dry_run: bool = False) -> tuple[Expired, ...]:
    """Remove all but the newest full versions of each device of a channel, and the deltas from and to them.

    Pinned versions stay. Devices that are redirected keep what they lead to.

    Args:
        keep_count: How many full versions stay; 0: all.
        dry_run: Only say what would go.

    Returns:
        What went, for each device that lost something.

    Raises:
        UsageError: `keep_count` is negative, or the content of the channel is another channel's.
    """
    if keep_count < 0:
        raise UsageError(f"cannot keep {keep_count} versions", resolution="retention counts from 0, which keeps all")
    keep_count = keep_count or VERSION_LIMIT
    current = read_channels(tree)
    require_own_content(current.channels, channel)
    due = []
    for device, entry in current.channels[channel].devices.items():
        if entry.redirect:
            continue
        index = read_named_index(tree.store, entry)
        kept = {image.version for image in kept_images(index.images, keep_count)}
        versions = tuple(image.version for image in index.fulls if image.version not in kept)
        if versions:
            due.append(Expired(channel=channel, device=device, versions=versions))
    if dry_run:
        return tuple(due)
    for each in due:
        change_images(tree, channel, each.device, lambda _, index: kept_images(index.images, keep_count))
        versions_text = ",".join(str(version) for version in each.versions)
        log.info("versions expired", channel=channel, device=each.device, versions=versions_text)
    if not due:
        heal_pair(tree, thorough=False)
    return tuple(due)


def named_versions(tree: ChannelTree, channel: str) -> dict[str, frozenset[int]]:
    """Return the full versions that a channel has, by device; none for a channel that is not there."""
    current = read_channels(tree)
    return {
        device: frozenset(image.version for image in read_named_index(tree.store, entry).fulls)
        for device, entry in current.channels.get(channel, Channel()).devices.items()
    }


def kept_images(images: Sequence[Image], keep_count: int) -> list[Image]:
    """Return the images without older full versions, and without deltas from or to them (system-image §4.6). Pure.

    Args:
        keep_count: How many full versions stay besides those that are pinned.
    """
    versions = [Dated(image.version, _SAME_DAY) for image in images if image.type == "full"]
    pinned = {image.version for image in images if image.pinned is not None}
    expired_versions = {
        item.id for item in expired(versions, protected=pinned, keep_count=keep_count, keep_days=0, today=_SAME_DAY)
    }
    left = {item.id for item in versions} - expired_versions
    return [image for image in images if image.version in left and (image.base is None or image.base in left)]


def orphans(tree: ChannelTree, *, grace: timedelta = GRACE) -> tuple[Orphan, ...]:
    """Find the objects below the web root that no channel and no waiting candidate names.

    The keyrings' folder is never looked into. Where there are no channels, nothing is an orphan: they may have been
    lost.

    Args:
        grace: Objects younger than this are no orphans.

    Returns:
        The orphans, sorted by key.
    """
    objects = {info.key.removeprefix(layout.ROOT): info for info in tree.store.list(layout.ROOT)}
    current = read_channels(tree)
    if current.etag is None:
        return ()
    named = set(_named(current, set(objects), tree.store))
    return tuple(
        Orphan(key=layout.ROOT + name, size_bytes=info.size_bytes)
        for name, info in sorted(objects.items())
        if name not in named and not _ALWAYS.fullmatch(name) and info.modified < tree.now() - grace
    )


def collect_orphans(tree: ChannelTree, *, grace: timedelta = GRACE) -> tuple[Orphan, ...]:
    """Delete the orphans, and return them, sorted by key."""
    removed = orphans(tree, grace=grace)
    tree.store.delete([orphan.key for orphan in removed])
    if removed:
        log.info("orphans removed", objects=len(removed), size_bytes=sum(orphan.size_bytes for orphan in removed))
    return removed


def _named(current: CurrentChannels, names: set[str], store: Store) -> Iterator[str]:
    """Yield every path that channels name, or candidates that may still be released."""
    newest: dict[tuple[str, str], int] = {}
    for name, channel in current.channels.items():
        for device, entry in channel.devices.items():
            if not channel.redirect and not entry.redirect:
                yield from _with_signature(layout.plain_index(name, device))
            index = read_named_index(store, entry)
            yield from _named_by_index(entry.index, index)
            if entry.keyring is not None:
                yield from (entry.keyring.path.lstrip("/"), entry.keyring.signature.lstrip("/"))
            newest[name, device] = index.newest_version
    for name in sorted(names):
        candidate = CANDIDATE.fullmatch(name)
        claim = candidate or _CLAIM.fullmatch(name)
        if claim is None:
            continue
        of_channel, of_device, version = claim["channel"], claim["device"], int(claim["version"])
        known = newest.get((of_channel, of_device), 0)
        if may_be_released(current.signed, of_channel, of_device, version, newest=known):
            yield name
            if candidate:
                yield from _named_by_candidate(name, store)


def _named_by_candidate(name: str, store: Store) -> Iterator[str]:
    """Yield what a candidate names. Its document is uncompressed inside its signature."""
    with store.open(layout.ROOT + name) as file:
        match = _CANDIDATE_INDEX.search(file.read())
    if match is None:
        return
    path = match["index"].decode()
    content = read_bytes(store, layout.key(path))
    if content is not None:
        yield from _named_by_index(path, Index.from_bytes(content, path))


def _named_by_index(path: str, index: Index) -> Iterator[str]:
    yield from _with_signature(path)
    for image in index.images:
        for file in image.files:
            yield from _with_signature(file.path)
            yield file.signature.lstrip("/")
            yield from _with_signature(layout.sidecar(file.path))


def _with_signature(path: str) -> tuple[str, str]:
    plain = path.lstrip("/")
    return plain, f"{plain}.asc"
