"""New versions of what is published already: promoted from another channel, rolled back, tagged.

Payloads are never copied or packed again: a version of the same content names the same pool files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from coreimage.client.documents import Image, ImageSource, Index
from coreimage.client.json_codec import JsonObject, json_sha256
from coreimage.errors import UsageError
from coreimage.host.process import run as run_process
from coreimage.system_image.channels.annotations import check_phase, with_phase
from coreimage.system_image.channels.changes import Change, change_images
from coreimage.system_image.channels.document import CurrentChannels
from coreimage.system_image.channels.release import require_files
from coreimage.system_image.channels.versions import (
    claim_version,
    find_version,
    last_number,
    put_version,
    require_version_file,
    retired_number,
    server_of,
)
from coreimage.system_image.documents import channel_rules as rules
from coreimage.system_image.documents.index import ALL_DEVICES, detail_text, details_of, generated_at, image_file
from coreimage.system_image.payloads.deltas import with_deltas
from coreimage.system_image.server import ChannelTree


@dataclass(frozen=True)
class _Copy:
    """What a new version is made of.

    Attributes:
        image: The full image whose content the version has.
        source: Where the index says that the version comes from; None: where `image` came from.
        tag: The version's tag, empty for none; None: that the version is a copy says nothing about a tag.
    """

    image: Image
    source: ImageSource | None = None
    tag: str | None = None


def promote(
    tree: ChannelTree,
    source: str,
    target: str,
    device: str,
    *,
    version: int | None = None,
    phase: int | None = None,
    delta_bases: int = 1,
) -> Change:
    """Publish a version of `source` as the next version of `target`, with its tag.

    What `target` has as its newest version already is not published again; then only a `phase` is set.

    Args:
        version: Which version of `source`; None: its newest.
        phase: To how many percent of the devices the new version is offered; None: to all.
        delta_bases: From how many of the newest versions of `target` deltas are made. Where content came that way
            before, the delta is there already.

    Raises:
        NotFoundError: There is no such channel, device or version.
        UsageError: The content of `target` is another channel's.
    """

    def choose(current: CurrentChannels) -> _Copy:
        rules.find_channel(current.channels, source)
        rules.require_own_content(current.channels, target)
        image = find_version(tree.store, current.channels, source, device, version)
        return _Copy(image, ImageSource(source, image.version), tag=details_of(image.version_detail).get("tag"))

    return _publish_copy(tree, target, device, choose, phase=phase, delta_bases=delta_bases)


def roll_back(
    tree: ChannelTree, channel: str, device: str, version: int, *, phase: int | None = None, delta_bases: int = 1
) -> Change:
    """Publish the content of the older `version` as a new one: devices only ever go to higher numbers.

    Raises:
        NotFoundError: The channel does not have that version any more.
    """

    def choose(current: CurrentChannels) -> _Copy:
        rules.require_own_content(current.channels, channel)
        image = find_version(tree.store, current.channels, channel, device, version)
        return _Copy(image, ImageSource(channel, image.version))

    return _publish_copy(tree, channel, device, choose, phase=phase, delta_bases=delta_bases)


def tag_image(tree: ChannelTree, channel: str, device: str, tag: str, *, delta_bases: int = 1) -> Change:
    """Publish the newest content as a new version with `tag=` in its version_detail. The phased percentage stays.

    Args:
        tag: What devices show; empty: no tag.

    Raises:
        UsageError: version_detail cannot hold the tag.
    """
    if set(",=%\n") & set(tag) or not (tag.isprintable() or not tag):
        raise UsageError(f"{tag!r} cannot be a tag", resolution="leave out commas, `=` and `%`")

    def choose(current: CurrentChannels) -> _Copy:
        rules.require_own_content(current.channels, channel)
        return _Copy(find_version(tree.store, current.channels, channel, device, None), tag=tag)

    return _publish_copy(tree, channel, device, choose, phase=None, delta_bases=delta_bases)


def _publish_copy(
    tree: ChannelTree,
    channel: str,
    device: str,
    choose: Callable[[CurrentChannels], _Copy],
    *,
    phase: int | None,
    delta_bases: int,
) -> Change:
    if phase is not None:
        check_phase(phase)
    rules.check_device(device)

    def add_copy(current: CurrentChannels, index: Index) -> list[Image]:
        copy = choose(current)
        newest = index.fulls[-1] if index.fulls else None
        if newest is not None and _is_copy(newest, copy):
            return [
                with_phase(image, phase) if phase is not None and image.version == newest.version else image
                for image in index.images
            ]
        added = _make_version(tree, current, index, channel, device, copy=copy, delta_bases=delta_bases)
        if phase is None and copy.source is None and newest is not None:
            added = [with_phase(image, newest.phased_percentage) for image in added]
        elif phase is not None:
            added = [with_phase(image, phase) for image in added]
        return [*index.images, *added]

    return change_images(tree, channel, device, add_copy)


def _is_copy(newest: Image, copy: _Copy) -> bool:
    """Return whether the newest version has this content and, where a tag is wanted, this tag.

    What was promoted from the same version already may have got another tag since.
    """
    tag = details_of(newest.version_detail).get("tag", "")
    is_from_there = copy.source is not None and newest.source == copy.source
    return _contents(newest) == _contents(copy.image) and (is_from_there or copy.tag in {None, tag})


def _contents(image: Image) -> list[tuple[str, str]]:
    return [(file.path, file.sha256) for file in image.payloads]


def _make_version(
    tree: ChannelTree,
    current: CurrentChannels,
    index: Index,
    channel: str,
    device: str,
    *,
    copy: _Copy,
    delta_bases: int,
) -> list[Image]:
    """Make the full image of the next number, and the deltas to it.

    A delta is nothing but the version file where its base has the content already.
    """
    image = copy.image
    version_file = require_version_file(image, f"{channel} {device}")
    server, mtime = server_of(tree.store, version_file)
    details = {name: text for name, text in details_of(image.version_detail).items() if name not in {"version", "tag"}}
    details |= {"tag": copy.tag} if copy.tag else {}
    last = last_number(current, index, channel, device)
    inputs: JsonObject = {
        "content": _contents(image),
        "detail": image.version_detail,
        "source": copy.source.to_json() if copy.source else None,
        "tag": copy.tag,
        "after": last,
        "server": server.model_dump(),
    }
    claim = claim_version(
        tree.store,
        channel,
        device,
        identity=json_sha256(inputs),
        detail=detail_text(details),
        generated_at=generated_at(tree.now()),
        newest=index.newest_version,
        last=last,
    )
    own_file = image_file(put_version(tree, claim, server, mtime), version_file.order)
    is_described = image.description != image.version_detail
    added = replace(
        image,
        version=claim.version,
        version_detail=claim.version_detail,
        description=image.description if is_described else claim.version_detail,
        files=(*image.payloads, own_file),
        minversion=0,
        phased_percentage=ALL_DEVICES,
        pinned=None,
        source=copy.source or image.source,
    )
    require_files(tree.store, added)
    bases = index.fulls[-delta_bases:] if delta_bases else ()
    retired = retired_number(current, channel, device)
    return with_deltas(tree, added, bases, legacy_above=retired, run=run_process)
