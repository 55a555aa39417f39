"""New versions of what is published already: promoted from another channel, rolled back, tagged; phasing, and pins.

Payloads are never copied or packed again: a version of the same content names the same pool files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from coreimage.errors import ConflictError, NotFoundError, UsageError
from coreimage.process import run as run_process
from coreimage.signing import Signer
from coreimage.storage import Store
from coreimage.system_image import edits
from coreimage.system_image.channels import Change, Now, change_channels
from coreimage.system_image.deltas import with_deltas
from coreimage.system_image.documents import (
    PHASE,
    PINNED,
    Document,
    channels_with,
    detail_text,
    details_of,
    file_entry,
    fulls,
    generated_at,
    index_of,
    json_bytes,
    newest_version,
    payloads,
    without,
)
from coreimage.system_image.release import require_files
from coreimage.system_image.tree import Channels, put_index, read_images
from coreimage.system_image.versions import (
    Place,
    last_number,
    put_version,
    reserve,
    server_of,
    version_file,
)

log = structlog.get_logger("coreimage.system_image")

_ALL = 100


def promote(
    source: str,
    target: str,
    device: str,
    *,
    version: int | None = None,
    phase: int | None = None,
    delta_bases: int = 1,
    store: Store,
    signer: Signer,
    now: Now,
) -> Change:
    """The next version of `target` is exactly what `version` of `source` is (None: its newest).

    It gets deltas from the `delta_bases` newest versions of `target`, made before where content came that way before.
    What `target` has as its newest already is not published again; then only a `phase` is set. Raises NotFoundError
    for a channel, device or version that is not there, UsageError for a target whose content is another channel's.
    """

    def copy_of(current: Channels) -> _Copy:
        edits.channel_entry(current.document, source)
        edits.require_plain(current.document, target)
        image = _full(current, source, device, version, store)
        return _Copy(image, {"channel": source, "version": image["version"]}, delta_bases=delta_bases)

    return _publish(target, device, copy_of, phase, store=store, signer=signer, now=now)


def roll_back(
    channel: str,
    device: str,
    version: int,
    *,
    phase: int | None = None,
    delta_bases: int = 1,
    store: Store,
    signer: Signer,
    now: Now,
) -> Change:
    """A new version with the content of the older `version`: devices only ever go to higher numbers.

    Raises NotFoundError for a version that the channel does not have any more.
    """

    def copy_of(current: Channels) -> _Copy:
        edits.require_plain(current.document, channel)
        image = _full(current, channel, device, version, store)
        return _Copy(image, {"channel": channel, "version": image["version"]}, delta_bases=delta_bases)

    return _publish(channel, device, copy_of, phase, store=store, signer=signer, now=now)


def tag_image(
    channel: str, device: str, tag: str, *, delta_bases: int = 1, store: Store, signer: Signer, now: Now
) -> Change:
    """A new version of the newest content, with `tag=` in its version_detail; an empty `tag` takes it away.

    The phasing stays. Raises UsageError for a tag that version_detail cannot hold.
    """
    if set(",=%\n") & set(tag) or not (tag.isprintable() or not tag):
        raise UsageError(f"{tag!r} cannot be a tag", resolution="leave out commas, `=` and `%`")

    def copy_of(current: Channels) -> _Copy:
        edits.require_plain(current.document, channel)
        return _Copy(_full(current, channel, device, None, store), tag=tag, delta_bases=delta_bases)

    return _publish(channel, device, copy_of, None, store=store, signer=signer, now=now)


def set_phase(
    channel: str, device: str, percentage: int, *, version: int | None = None, store: Store, signer: Signer, now: Now
) -> Change:
    """How many of the devices are offered the newest version: 0 withdraws it, 100 is all.

    `version` guards against a newer one that came meanwhile: raises ConflictError when it is not the newest.
    """
    _check_phase(percentage)

    def edit(current: Channels) -> Document:
        edits.require_writable(current.document, channel, device)
        newest = _full(current, channel, device, None, store)["version"]
        if version not in {None, newest}:
            raise ConflictError(
                f"version {version} is not the newest, which is {newest}",
                where=f"{channel} {device}",
                resolution="only the newest version can be phased",
            )
        images = read_images(store, current.document, channel, device)
        phased = [_phased(image, percentage) if image["version"] == newest else image for image in images]
        return _with_images(current, Place(channel, device, store, signer), images, phased, now)

    return _changed(channel, device, edit, store=store, signer=signer, now=now)


def pin_version(
    channel: str, device: str, version: int, note: str = "", *, store: Store, signer: Signer, now: Now
) -> Change:
    """Keeps a version from retention until it is unpinned; pinned again, it gets the new `note`.

    Raises NotFoundError for a version that the channel does not have.
    """
    pinned = lambda image: {**image, PINNED: note}  # noqa: E731
    return _pinning(channel, device, version, pinned, store=store, signer=signer, now=now)


def unpin_version(channel: str, device: str, version: int, *, store: Store, signer: Signer, now: Now) -> Change:
    """Leaves a version to retention again."""
    unpinned = lambda image: without(image, PINNED)  # noqa: E731
    return _pinning(channel, device, version, unpinned, store=store, signer=signer, now=now)


def _pinning(
    channel: str,
    device: str,
    version: int,
    change: Callable[[Document], Document],
    *,
    store: Store,
    signer: Signer,
    now: Now,
) -> Change:
    def edit(current: Channels) -> Document:
        edits.require_writable(current.document, channel, device)
        chosen = _full(current, channel, device, version, store)
        images = read_images(store, current.document, channel, device)
        wanted = [change(image) if image == chosen else image for image in images]
        return _with_images(current, Place(channel, device, store, signer), images, wanted, now)

    return _changed(channel, device, edit, store=store, signer=signer, now=now).model_copy(update={"version": version})


@dataclass(frozen=True)
class _Copy:
    """What a new version is made of. `tag` None keeps no tag: what is said of a version is not said of its copies."""

    image: Document
    source: Document | None = None
    tag: str | None = None
    delta_bases: int = 1


def _publish(
    channel: str,
    device: str,
    copy_of: Callable[[Channels], _Copy],
    phase: int | None,
    *,
    store: Store,
    signer: Signer,
    now: Now,
) -> Change:
    if phase is not None:
        _check_phase(phase)
    edits.check_device(device)
    place = Place(channel, device, store, signer)

    def edit(current: Channels) -> Document:
        edits.require_writable(current.document, channel, device)
        copy = copy_of(current)
        images = read_images(store, current.document, channel, device)
        newest = fulls(images)[-1] if fulls(images) else None
        if newest is not None and _same(newest, copy):
            wanted = images if phase is None else [_phased(image, phase) for image in images]
            kept = [
                new if new["version"] == newest["version"] else old for old, new in zip(images, wanted, strict=True)
            ]
            return _with_images(current, place, images, kept, now)
        made = _made(place, current, images, copy, now)
        if phase is not None or copy.tag is not None:
            before = newest.get(PHASE, _ALL) if newest else _ALL
            made = [_phased(image, before if phase is None else phase) for image in made]
        return _with_images(current, place, images, [*images, *made], now)

    return _changed(channel, device, edit, store=store, signer=signer, now=now)


def _same(newest: Document, copy: _Copy) -> bool:
    """Whether the newest version has this content and, where that matters, this tag."""
    tag = details_of(newest["version_detail"]).get("tag", "")
    return _contents(newest) == _contents(copy.image) and copy.tag in {None, tag}


def _contents(image: Document) -> list[tuple[str, str]]:
    return [(file["path"], file["checksum"]) for file in sorted(payloads(image), key=lambda file: int(file["order"]))]


def _made(place: Place, current: Channels, images: Sequence[Document], copy: _Copy, now: Now) -> list[Document]:
    """The full image of the next number, and the steps to it: of nothing but the version file where a base has the
    content already."""
    where = f"{place.channel} {place.device}"
    server, mtime = server_of(place.store, version_file(copy.image, where))
    details = details_of(copy.image["version_detail"])
    details = {name: value for name, value in details.items() if name not in {"version", "tag"}}
    details |= {"tag": copy.tag} if copy.tag else {}
    last = last_number(current, images, place.channel, place.device)
    identity = _identity(copy, last, server.model_dump())
    numbers = {"newest": newest_version(images), "last": last}
    reserved = reserve(place, identity, detail_text(details), generated_at(now()), **numbers)
    said = file_entry(put_version(place, reserved, server, mtime), version_file(copy.image, where)["order"])
    image = {
        **without(without(copy.image, PHASE), PINNED),
        "version": reserved["version"],
        "version_detail": reserved["channel.ini"]["version_detail"],
        "files": [*payloads(copy.image), said],
        **({"source": copy.source} if copy.source else {}),
    }
    if copy.image["description"] == copy.image["version_detail"]:
        image["description"] = image["version_detail"]
    require_files(place.store, image)
    bases = fulls(images)[-copy.delta_bases :] if copy.delta_bases else []
    return with_deltas(image, bases, store=place.store, signer=place.signer, run=run_process)


def _identity(copy: _Copy, last: int, server: Document) -> str:
    inputs = {
        "content": _contents(copy.image),
        "detail": copy.image["version_detail"],
        "source": copy.source,
        "tag": copy.tag,
        "after": last,
        "server": server,
    }
    return hashlib.sha256(json_bytes(inputs)).hexdigest()


def _full(current: Channels, channel: str, device: str, version: int | None, store: Store) -> Document:
    if device not in edits.channel_entry(current.document, channel)["devices"]:
        raise edits.unknown_device(current.document, channel, device)
    images = fulls(read_images(store, current.document, channel, device))
    for image in reversed(images):
        if version in {None, image["version"]}:
            return image
    known = ", ".join(str(image["version"]) for image in images) or "none"
    raise NotFoundError(
        f"channel {channel!r} has no version {version if version is not None else 'yet'} for {device}",
        resolution=f"its versions: {known}",
    )


def _with_images(
    current: Channels, place: Place, images: Sequence[Document], wanted: Sequence[Document], now: Now
) -> Document:
    if list(wanted) == list(images):
        return current.document
    document = index_of(wanted, place.channel, place.device, generated_at(now()))
    index = put_index(place.channel, place.device, document, store=place.store, signer=place.signer)
    return channels_with(current.document, place.channel, place.device, index.sha256)


def _phased(image: Document, percentage: int) -> Document:
    """100 is said by saying nothing (system-image §4.8)."""
    return {**without(image, PHASE), **({PHASE: percentage} if percentage != _ALL else {})}


def _check_phase(percentage: int) -> None:
    if not 0 <= percentage <= _ALL:
        raise UsageError(f"{percentage} is no percentage", resolution="a phase is a whole number from 0 to 100")


def _changed(
    channel: str, device: str, edit: Callable[[Channels], Document], *, store: Store, signer: Signer, now: Now
) -> Change:
    """Runs an edit of one device's images, and says which version is its newest then."""
    before: list[Document] = []

    def remembering(current: Channels) -> Document:
        before.append(current.document)
        return edit(current)

    after = change_channels(remembering, store=store, signer=signer, now=now).document
    version = newest_version(read_images(store, after, channel, device))
    changed = after != before[-1]
    if changed:
        log.info("channel changed", channel=channel, device=device, version=version)
    return Change(changed=changed, channel=channel, device=device, version=version)
