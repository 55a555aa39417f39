"""Changes of the channels: one compare-and-swap each, what follows from it included, then the pairs of 2015.

Each operation says whether anything changed. Done again, or after a kill, it only does what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from coreimage.client.documents import CHANNELS_LIMIT_BYTES
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import ConflictError, NotFoundError, UsageError
from coreimage.model import Value
from coreimage.signing import Role, Signer, verify_detached
from coreimage.storage import Store
from coreimage.system_image import edits, layout
from coreimage.system_image.documents import (
    Document,
    channels_with,
    compact_bytes,
    generated_at,
    images_of,
    index_of,
    newest_version,
)
from coreimage.system_image.tree import (
    CHANNELS_LIFETIME,
    Channels,
    heal_pair,
    put_channels,
    put_index,
    read_channels,
    read_images,
    read_index,
)
from coreimage.system_image.versions import Place, recast

log = structlog.get_logger("coreimage.system_image")

Now = Callable[[], datetime]
_ATTEMPTS = 100
"""How often others may move the channels in between before we give up."""
_RENEWED_BEFORE = CHANNELS_LIFETIME - timedelta(days=14)
"""A document is renewed once it is two weeks old."""


class Change(Value):
    """What an operation did: `changed` is False when all was so already. `device` is None for all, `version` None where
    no version is meant."""

    changed: bool
    channel: str
    device: str | None = None
    version: int | None = None


def create_channel(name: str, *, store: Store, signer: Signer, now: Now) -> Change:
    """Raises UsageError for a name that cannot be one, or that an alias or redirect has."""
    return _apply(name, lambda channels: edits.with_channel(channels, name), _Tree(store, signer, now))


def remove_channel(name: str, *, store: Store, signer: Signer, now: Now) -> Change:
    """Redirects to it go too. Its files are orphans from then on. Raises ConflictError while an alias follows it."""
    return _apply(name, lambda channels: edits.without_channel(channels, name), _Tree(store, signer, now))


def hide_channel(name: str, *, store: Store, signer: Signer, now: Now) -> Change:
    return _apply(name, lambda channels: edits.with_hidden(channels, name, hidden=True), _Tree(store, signer, now))


def show_channel(name: str, *, store: Store, signer: Signer, now: Now) -> Change:
    return _apply(name, lambda channels: edits.with_hidden(channels, name, hidden=False), _Tree(store, signer, now))


def alias_channel(name: str, target: str, *, store: Store, signer: Signer, now: Now) -> Change:
    """Devices of `name` stay on it and get what `target` has; an alias that exists gets this target."""
    return _apply(name, lambda channels: edits.with_alias(channels, name, target), _Tree(store, signer, now))


def redirect_channel(
    name: str, target: str, *, device: str | None = None, store: Store, signer: Signer, now: Now
) -> Change:
    """Devices of `name`, or its one `device`, move to `target` with their next update."""
    if device is None:
        return _apply(name, lambda channels: edits.with_redirect(channels, name, target), _Tree(store, signer, now))
    edit = lambda channels: edits.with_device_redirect(channels, name, device, target)  # noqa: E731
    return _apply(name, edit, _Tree(store, signer, now), device)


def rename_channel(
    old: str, new: str, *, leave_redirect: bool = True, store: Store, signer: Signer, now: Now
) -> Change:
    """Everything of `old`, its versions included, is `new`'s; aliases and redirects follow.

    Devices that know `old` find the way by the redirect that is left.
    """

    def edit(current: Channels) -> Document:
        if new in current.document and _was_renamed(current.document, old, new):
            return current.document
        channels = edits.renamed(current.document, old, new, redirect=leave_redirect)
        for device, entry in channels[new]["devices"].items():
            if not entry.get("redirect"):
                images = read_images(store, current.document, old, device)
                place = Place(new, device, store, signer)
                document = index_of([recast(place, image) for image in images], new, device, generated_at(now()))
                index = put_index(new, device, document, store=store, signer=signer)
                channels = channels_with(channels, new, device, index.sha256)
        return channels

    return _change(new, edit, _Tree(store, signer, now))


def _was_renamed(channels: Document, old: str, new: str) -> bool:
    return old not in channels or channels[old].get("redirect") == new


def create_device(channel: str, device: str, *, store: Store, signer: Signer, now: Now) -> Change:
    """Raises NotFoundError for an unknown channel, UsageError for one whose content is another's."""
    edits.check_device(device)

    def edit(current: Channels) -> Document:
        edits.require_plain(current.document, channel)
        edits.require_writable(current.document, channel, device)
        if device in current.document[channel]["devices"]:
            return current.document
        document = index_of([], channel, device, generated_at(now()))
        index = put_index(channel, device, document, store=store, signer=signer)
        return channels_with(current.document, channel, device, index.sha256)

    return _change(channel, edit, _Tree(store, signer, now), device)


def remove_device(channel: str, device: str, *, store: Store, signer: Signer, now: Now) -> Change:
    return _apply(
        channel, lambda channels: edits.without_device(channels, channel, device), _Tree(store, signer, now), device
    )


def set_device_keyring(
    channel: str, device: str, path: str | None, *, store: Store, signer: Signer, now: Now
) -> Change:
    """`path` is a device-signing keyring below the web root whose signature by image-signing is beside it (`.asc`);
    None takes the keyring away. Raises NotFoundError or VerificationError unless both are there and right."""
    paths = None
    if path is not None:
        tarball, signature = (_web_bytes(store, name, KEYRING_LIMIT_BYTES) for name in (path, f"{path}.asc"))
        verify_detached(tarball, signature, [signer.public_key(Role.IMAGE_SIGNING)], where=path)
        paths = (f"/{path.lstrip('/')}", f"/{path.lstrip('/')}.asc")
    edit = lambda channels: edits.with_keyring(channels, channel, device, paths)  # noqa: E731
    return _apply(channel, edit, _Tree(store, signer, now), device)


def renew_channels(*, store: Store, signer: Signer, now: Now) -> Change:
    """Signs the channels document anew once it is two weeks old: without that, clients stop believing it when it
    expires. Changes nothing else."""
    current = read_channels(store, signer)
    due = current.etag is not None and current.expires < (now() + _RENEWED_BEFORE).timestamp()
    if due:
        change_channels(lambda found: found.document, store=store, signer=signer, now=now, anew=True)
    else:
        heal_pair(store=store, signer=signer, thorough=False)
    return Change(changed=due, channel="")


def change_channels(
    edit: Callable[[Channels], Document], *, store: Store, signer: Signer, now: Now, anew: bool = False
) -> Channels:
    """Moves the channels document to what `edit` makes of it, redirects and aliases after it; gives what it is then.

    `edit` may be called again when somebody else was faster. Nothing is written when nothing changes, unless `anew`.
    """
    for _ in range(_ATTEMPTS):
        current = read_channels(store, signer)
        document = _followed(edits.settled(edit(current)), store, signer, now)
        if document == current.document and not anew:
            heal_pair(store=store, signer=signer, thorough=False)
            return current
        _require_readable(document)
        try:
            moved = put_channels(_retiring(current, document, store), document, store=store, signer=signer, now=now)
        except ConflictError:
            continue
        heal_pair(store=store, signer=signer, thorough=False)
        return moved
    raise ConflictError(
        "others keep moving the channels", where=store.url, resolution="run the same command again in a while"
    )


@dataclass(frozen=True)
class _Tree:
    store: Store
    signer: Signer
    now: Now


def _apply(channel: str, edit: Callable[[Document], Document], tree: _Tree, device: str | None = None) -> Change:
    return _change(channel, lambda current: edit(current.document), tree, device)


def _change(channel: str, edit: Callable[[Channels], Document], tree: _Tree, device: str | None = None) -> Change:
    before: list[Channels] = []

    def remembering(current: Channels) -> Document:
        before.append(current)
        return edit(current)

    after = change_channels(remembering, store=tree.store, signer=tree.signer, now=tree.now)
    changed = after.document != before[-1].document
    if changed:
        log.info("channels changed", channel=channel, device=device, number=after.number)
    return Change(changed=changed, channel=channel, device=device)


def _followed(channels: Document, store: Store, signer: Signer, now: Now) -> Document:
    """Aliases have what their targets have: each device's index is made anew where its target's is another one."""
    changed = channels
    for name, entry in channels.items():
        if not entry.get("alias"):
            continue
        target = channels.get(entry["alias"], {"devices": {}})["devices"]
        for device, described in entry["devices"].items():
            source = target[device]["index_sha256"]
            if described.get("alias_of_sha256") != source:
                made = _alias_index(Place(name, device, store, signer), entry["alias"], target[device], now)
                changed = channels_with(changed, name, device, made)
                changed[name]["devices"][device]["alias_of_sha256"] = source
    return changed


def _alias_index(place: Place, target: str, entry: Document, now: Now) -> str:
    """The digest of the alias's index: every image of the target's, with a version file of the alias's own."""
    images = images_of(json.loads(read_index(place.store, entry)))
    made = [recast(place, image, target) for image in images]
    document = index_of(made, place.channel, place.device, generated_at(now()), target=target)
    return put_index(place.channel, place.device, document, store=place.store, signer=place.signer).sha256


def _retiring(current: Channels, document: Document, store: Store) -> Channels:
    """Remembers the newest numbers of the devices that `document` no longer has."""
    retired = deepcopy(current.retired)
    for channel, entry in current.document.items():
        if entry.get("redirect"):
            continue
        for device, described in entry["devices"].items():
            gone = device not in document.get(channel, {"devices": {}})["devices"]
            if (gone or document[channel].get("redirect")) and not described.get("redirect"):
                newest = newest_version(read_images(store, current.document, channel, device))
                numbers = retired.setdefault(channel, {})
                numbers[device] = max(newest, numbers.get(device, 0))
    return replace(current, retired=retired)


def _require_readable(document: Document) -> None:
    """Our clients read no more than this, whoever signed it."""
    size_bytes = len(compact_bytes(document))
    if size_bytes > CHANNELS_LIMIT_BYTES // 2:
        raise UsageError(
            f"the channels document would have {size_bytes} bytes, which clients refuse",
            resolution="remove channels that nobody uses, or publish some of them below another web root",
        )


def _web_bytes(store: Store, path: str, limit_bytes: int) -> bytes:
    try:
        with store.open(layout.key(path), stop=limit_bytes) as file:
            return file.read()
    except NotFoundError as error:
        raise NotFoundError(
            f"{path} is not below the web root",
            where=store.url,
            resolution="put the keyring and its signature there first",
        ) from error
