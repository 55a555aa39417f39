"""What the tree no longer needs: versions beyond a channel's number, and objects that nothing names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import structlog

from coreimage.errors import UsageError
from coreimage.model import Value
from coreimage.retention import Dated, expired
from coreimage.signing import Signer
from coreimage.storage import Store
from coreimage.system_image import edits, layout
from coreimage.system_image.channels import Now, change_channels
from coreimage.system_image.documents import (
    PINNED,
    VERSION_LIMIT,
    Document,
    channels_with,
    fulls,
    generated_at,
    images_of,
    index_of,
    newest_version,
)
from coreimage.system_image.tree import Channels, heal_pair, put_index, read_channels, read_images

log = structlog.get_logger("coreimage.system_image")

GRACE = timedelta(hours=48)
"""Objects younger than this stay: an import may be about to name them, a client may be downloading them."""
_ALWAYS = re.compile(r"channels\.json(\.gpg|\.asc)?|gpg/.*|robots\.txt|favicon\.ico|\.well-known/.*|.*\.html|.*\.css")
"""What is no orphan though no index names it (system-image §4.6, D19)."""
_CLAIM = re.compile(r"(?P<channel>.+)/(?P<device>[^/]+)/version-(?P<version>\d+)\.json(\.asc)?")
_CANDIDATE = re.compile(r"(?P<channel>.+)/(?P<device>[^/]+)/candidates/(?P<version>\d+)/channels\.json\.gpg")
_CANDIDATE_INDEX = re.compile(rb'"index":"(?P<index>[^"]+)"')


class Orphan(Value):
    key: str
    size_bytes: int


class Expired(Value):
    """The full versions of a device that went, or would go; sorted."""

    channel: str
    device: str
    versions: tuple[int, ...]


def expire_versions(
    channel: str, keep_count: int, *, store: Store, signer: Signer, now: Now, dry_run: bool = False
) -> tuple[Expired, ...]:
    """Keeps the newest `keep_count` full versions of each device of a channel, those that are pinned, and the deltas
    between them.

    0 keeps all. Devices that are redirected keep what they lead to. Raises UsageError for a negative number.
    """
    if keep_count < 0:
        raise UsageError(f"cannot keep {keep_count} versions", resolution="retention counts from 0, which keeps all")
    current = read_channels(store, signer)
    edits.require_plain(current.document, channel)
    own = [device for device, entry in current.document[channel]["devices"].items() if not entry.get("redirect")]
    gone = [_expired(current, channel, device, keep_count or VERSION_LIMIT, store) for device in own]
    due = tuple(each for each in gone if each.versions)
    for each in () if dry_run else due:
        _expire(each, keep_count, store=store, signer=signer, now=now)
    if not dry_run and not due:
        heal_pair(store=store, signer=signer, thorough=False)
    return due


def named_versions(channel: str, *, store: Store, signer: Signer) -> dict[str, frozenset[int]]:
    """The full versions that a channel has, by device; none for a channel that is not there."""
    current = read_channels(store, signer)
    return {
        device: frozenset(image["version"] for image in fulls(read_images(store, current.document, channel, device)))
        for device in current.document.get(channel, {"devices": {}})["devices"]
    }


def _expired(current: Channels, channel: str, device: str, keep_count: int, store: Store) -> Expired:
    images = read_images(store, current.document, channel, device)
    kept = {image["version"] for image in kept_images(images, keep_count)}
    versions = sorted(image["version"] for image in fulls(images) if image["version"] not in kept)
    return Expired(channel=channel, device=device, versions=tuple(versions))


def _expire(gone: Expired, keep_count: int, *, store: Store, signer: Signer, now: Now) -> None:
    def edit(current: Channels) -> Document:
        images = read_images(store, current.document, gone.channel, gone.device)
        document = index_of(kept_images(images, keep_count), gone.channel, gone.device, generated_at(now()))
        index = put_index(gone.channel, gone.device, document, store=store, signer=signer)
        return channels_with(current.document, gone.channel, gone.device, index.sha256)

    change_channels(edit, store=store, signer=signer, now=now)
    versions = ",".join(str(version) for version in gone.versions)
    log.info("versions expired", channel=gone.channel, device=gone.device, versions=versions)


def kept_images(images: list[Document], keep_count: int) -> list[Document]:
    """Pure: without the older fulls, and every delta that comes from or leads to one of them (system-image §4.6)."""
    today = datetime.now(UTC).date()
    dated = [Dated(int(image["version"]), today) for image in fulls(images)]
    pinned = {int(image["version"]) for image in images if PINNED in image}
    gone = {item.id for item in expired(dated, protected=pinned, keep_count=keep_count, keep_days=0, today=today)}
    left = {item.id for item in dated} - gone
    return [image for image in images if image["version"] in left and image.get("base", image["version"]) in left]


def orphans(*, store: Store, signer: Signer, now: Now, grace: timedelta = GRACE) -> tuple[Orphan, ...]:
    """Objects below the web root that no channel and no waiting candidate names, and that are older than `grace`.

    Sorted by key. The keyrings' folder is never looked into. Where there are no channels, nothing is an orphan: they
    may have been lost.
    """
    found = {info.key.removeprefix(layout.ROOT): info for info in store.list(layout.ROOT)}
    current = read_channels(store, signer)
    if current.etag is None:
        return ()
    named = set(_named(current, set(found), store))
    return tuple(
        Orphan(key=layout.ROOT + name, size_bytes=info.size_bytes)
        for name, info in sorted(found.items())
        if name not in named and not _ALWAYS.fullmatch(name) and info.modified < now() - grace
    )


def collect_orphans(*, store: Store, signer: Signer, now: Now, grace: timedelta = GRACE) -> tuple[Orphan, ...]:
    """Removes them, and says what it removed."""
    removed = orphans(store=store, signer=signer, now=now, grace=grace)
    store.delete([orphan.key for orphan in removed])
    if removed:
        log.info("orphans removed", objects=len(removed), size_bytes=sum(orphan.size_bytes for orphan in removed))
    return removed


def _named(current: Channels, names: set[str], store: Store) -> Iterator[str]:
    retired = current.retired.items()
    newest = {(channel, device): last for channel, devices in retired for device, last in devices.items()}
    for channel, entry in current.document.items():
        for device, described in entry["devices"].items():
            if not entry.get("redirect") and not described.get("redirect"):
                yield from _pair(layout.plain_index(channel, device))
            yield from _named_by_device(described, store)
            images = read_images(store, current.document, channel, device)
            newest[channel, device] = max(newest_version(images), newest.get((channel, device), 0))
    for name in sorted(names):
        claim = _CLAIM.fullmatch(name) or _CANDIDATE.fullmatch(name)
        if claim and int(claim["version"]) > newest.get((claim["channel"], claim["device"]), 0):
            yield name
            yield from _named_by_candidate(name, store) if "candidates" in name else ()


def _named_by_device(described: Document, store: Store) -> Iterator[str]:
    yield from _named_by_index(described["index"], store)
    for path in (described.get("keyring") or {}).values():
        yield path.lstrip("/")


def _named_by_index(path: str, store: Store) -> Iterator[str]:
    yield from _pair(path)
    with store.open(layout.key(path)) as file:
        images = images_of(json.loads(file.read()))
    for image in images:
        for file_named in image["files"]:
            yield from _pair(file_named["path"])
            yield file_named["signature"].lstrip("/")
            yield from _pair(layout.sidecar(file_named["path"]))


def _named_by_candidate(name: str, store: Store) -> Iterator[str]:
    """A candidate's document is uncompressed inside its signature: who may be tested, may be released."""
    with store.open(layout.ROOT + name) as file:
        found = _CANDIDATE_INDEX.search(file.read())
    if found and store.head(layout.key(found["index"].decode())):
        yield from _named_by_index(found["index"].decode(), store)


def _pair(path: str) -> tuple[str, str]:
    plain = path.lstrip("/")
    return plain, f"{plain}.asc"
