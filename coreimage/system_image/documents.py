"""Writes channels.json, index.json and sidecars (system-image §2). Pure: documents in, documents out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from coreimage.model import ArtifactRef, PublishedFile
from coreimage.system_image import layout

VERSION_BASE = 1
VERSION_LIMIT = 65535
"""16 bits in the original client (system-image §2.3)."""

PHASE = "phased-percentage"
PINNED = "pinned"
"""Ours: why retention keeps a version, in its full image. Clients of 2015 do not look at it."""
TREE = "tree_sha256"
"""Ours: the digest of the tree that a version's payloads make (coreimage.client.tree)."""

Document = dict[str, Any]
MINVERSION = "minversion"
COMPACT = "compact"
"""The key of an index below which old clients see nothing, and the form of most deltas there."""
OWN = "own"
"""The form of what is like an image of 2015, but has a payload that the appliers of 2015 cannot unpack, or leads from
or to one that has."""


def json_bytes(document: Document) -> bytes:
    """Sorted keys, four blanks, one newline at the end, as the original server writes."""
    return (json.dumps(document, indent=4, sort_keys=True, ensure_ascii=False) + "\n").encode()


def compact_bytes(document: Document) -> bytes:
    """What only our own clients read: nobody looks at it, and it is large where there are many channels."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def signed_channels(
    channels: Document,
    *,
    number: int,
    expires: int | None = None,
    retired: Document | None = None,
    candidate: bool = False,
) -> Document:
    """What channels.json.gpg holds: the channels, and what keeps a client from believing an old or foreign document.

    A candidate's never expires, as nobody is served it unasked, and its number is the version.
    """
    document = {"kind": "candidate" if candidate else "channels", "number": number, "channels": channels}
    return {**document, **({"expires": expires} if expires else {}), **({"retired": retired} if retired else {})}


def generated_at(now: datetime) -> str:
    """C locale, and the token UTC must occur (system-image §2.3)."""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    at = now.astimezone(UTC)
    return f"{days[at.weekday()]} {months[at.month - 1]} {at:%d %H:%M:%S} UTC {at:%Y}"


def image_entry(version: int, version_detail: str, description: str, files: Sequence[PublishedFile]) -> Document:
    """A full image; `files` are in the order in which they are applied."""
    ours = any(file.artifact.uri.endswith(layout.ZSTD) for file in files)
    return {
        **({"form": OWN} if ours else {}),
        "type": "full",
        "version": version,
        "version_detail": version_detail,
        "description": description or version_detail,
        "files": [file_entry(file.artifact, order) for order, file in enumerate(files)],
    }


def file_entry(artifact: ArtifactRef, order: int) -> Document:
    path = "/" + artifact.uri.removeprefix(layout.ROOT)
    return {
        "path": path,
        "signature": f"{path}.asc",
        "checksum": artifact.sha256,
        "size": artifact.size_bytes,
        "order": order,
    }


def index_with(images: Sequence[Document], entries: Sequence[Document], channel: str, device: str, at: str) -> Document:
    """The index of `images` and then `entries` (a full image and its deltas), bound to its channel and device."""
    return index_of([*images, *entries], channel, device, at)


def index_of(images: Sequence[Document], channel: str, device: str, at: str, *, target: str = "") -> Document:
    """An index bound to its channel and device, and to the `target` of an alias. Only the newest version may be phased
    (system-image §2.3)."""
    newest = newest_version(images)
    kept = [image if image["version"] == newest else without(image, PHASE) for image in images]
    plain = _never_full_then_delta([image for image in kept if not is_ours(image)])
    compact = [image for image in kept if is_ours(image)]
    about = {"generated_at": at, "channel": channel, "device": device}
    document = {"global": {**about, **({"channel_target": target} if target else {})}, "images": plain}
    return {**document, COMPACT: compact} if compact else document


def images_of(index: Document) -> list[Document]:
    """All images of an index, oldest first; of a version the full one, then its deltas of both forms."""
    images: list[Document] = [*index["images"], *index.get(COMPACT, [])]
    return sorted(images, key=lambda image: int(image["version"]))


def is_ours(image: Document) -> bool:
    """Whether only our own clients know how to apply it."""
    return "form" in image


def _never_full_then_delta(images: Sequence[Document]) -> list[Document]:
    """The appliers of 2015 ignore what a delta removes when a full image comes before it in one update (system-image
    §2.5). So a full image that a delta starts from is closed to devices that do not have it already (§3.3)."""
    bases = {image["base"] for image in images if image["type"] == "delta"}
    opened = [without(image, MINVERSION) for image in images]
    return [
        {**image, MINVERSION: image["version"]} if image["type"] == "full" and image["version"] in bases else image
        for image in opened
    ]


def same_image(one: Document, other: Document) -> bool:
    """Whether two entries are one publication: phasing, pins, and who may use a full image, change with time; and
    earlier ones did not say the digest of their tree."""
    return all(one.get(key) == other.get(key) for key in {*one, *other} - {PHASE, PINNED, MINVERSION, TREE})


def without(image: Document, key: str) -> Document:
    return {name: value for name, value in image.items() if name != key}


def channels_with(channels: Document, channel: str, device: str, index_sha256: str) -> Document:
    """`channels` with the device's index replaced; a new channel or device is added. Nothing else changes."""
    before = channels.get(channel, {"devices": {}})
    entry = dict(before["devices"].get(device, {}))
    entry.update(index=layout.index(channel, device, index_sha256), index_sha256=index_sha256)
    return {**channels, channel: {**before, "devices": {**before["devices"], device: entry}}}


def newest_version(images: Sequence[Document]) -> int:
    """0 when there are none."""
    return max((image["version"] for image in images), default=VERSION_BASE - 1)


def fulls(images: Sequence[Document]) -> list[Document]:
    """Oldest first."""
    return sorted((image for image in images if image["type"] == "full"), key=lambda image: int(image["version"]))


def payloads(image: Document) -> list[Document]:
    """The files that make the content: all but the one that only says channel and version."""
    return [file for file in image["files"] if not is_version_file(file)]


def is_version_file(file: Document) -> bool:
    return bool(re.fullmatch(r"version-\d+\.tar\.xz", file["path"].rpartition("/")[2]))


def details_of(version_detail: str) -> dict[str, str]:
    """`name=value` pairs, joined by commas (system-image §2.3)."""
    return dict(part.partition("=")[::2] for part in version_detail.split(",") if part)


def detail_text(details: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in details.items())
