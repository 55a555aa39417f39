"""A channel's next version: its number, which is claimed once and for ever, and the file that says it on a device."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import JSON, TAR_XZ, ArtifactRef, Server
from coreimage.signing import Role, Signer
from coreimage.storage import Store, read_blob
from coreimage.system_image import layout
from coreimage.system_image.documents import (
    VERSION_LIMIT,
    Document,
    file_entry,
    is_version_file,
    json_bytes,
    newest_version,
)
from coreimage.system_image.payload import put_signature
from coreimage.system_image.tree import Channels
from coreimage.system_image.version_tarball import read_identity, version_tarball


@dataclass(frozen=True)
class Place:
    """What is published where, and with what."""

    channel: str
    device: str
    store: Store
    signer: Signer

    def sidecar(self, version: int) -> str:
        return layout.key(layout.version_sidecar(self.channel, self.device, version))


def last_number(channels: Channels, images: Sequence[Document], channel: str, device: str) -> int:
    """The highest number that devices may know, of images that were removed too; 0 for none."""
    return max(newest_version(images), channels.retired.get(channel, {}).get(device, 0))


def reserve(place: Place, identity: str, detail: str, at: str, *, newest: int, last: int) -> Document:
    """The first number after `last` that is free or was taken by the same inputs; `newest` is the channel's newest.

    `identity` is the digest of all that the version's bytes depend on; `detail` its version_detail without the number.
    Released inputs keep their number: importing the newest version again makes no second one.
    """
    released = reservation(place, newest) if newest == last and newest else None
    if released is not None and released.get("identity") == identity:
        return released
    for version in range(last + 1, VERSION_LIMIT + 1):
        held = _take(place, version, identity, detail, at)
        if held.get("identity") == identity:
            return held
    raise ConflictError(
        f"the version numbers that clients can read end at {VERSION_LIMIT}",
        where=f"{place.channel} {place.device}",
        resolution="publish to a new channel",
    )


def _take(place: Place, version: int, identity: str, detail: str, at: str) -> Document:
    """What holds the number: the version's sidecar (system-image §2.8), which doubles as the claim on it."""
    mine = {
        "generator": "version",
        "version": version,
        "version_detail": f"version={version}",
        "channel.ini": {
            "channel": place.channel,
            "device": place.device,
            "version": str(version),
            "version_detail": ",".join(filter(None, [detail, f"version={version}"])),
        },
        "identity": identity,
        "generated_at": at,
    }
    with suppress(ConflictError):
        place.store.put_bytes(place.sidecar(version), json_bytes(mine), media_type=JSON, if_absent=True)
        return mine
    return reservation(place, version) or {}


def reservation(place: Place, version: int) -> Document | None:
    try:
        with place.store.open(place.sidecar(version)) as file:
            held: Document = json.loads(file.read())
    except NotFoundError:
        return None
    return held


def put_version(place: Place, reserved: Document, server: Server, mtime: int) -> ArtifactRef:
    """The version's file where the original server has it, and its sidecar signed."""
    version, detail = reserved["version"], reserved["channel.ini"]["version_detail"]
    content = version_tarball(place.channel, place.device, version, detail, server=server, mtime=mtime)
    key = layout.key(layout.version_tarball(place.channel, place.device, version))
    put_signature(place.store, key, place.signer.detached(Role.IMAGE_SIGNING, content))
    place.store.put_bytes(key, content, media_type=TAR_XZ)
    sidecar = json_bytes(reserved)
    put_signature(place.store, place.sidecar(version), place.signer.detached(Role.IMAGE_SIGNING, sidecar))
    return _ref(key, content)


def recast(place: Place, image: Document, target: str = "") -> Document:
    """`image` of another channel as an image of this one: the same content and number under another name.

    `target` is the channel that an alias follows. The new version file says the same server as the old one.
    """
    files = [_recast(place, image, file, target) if is_version_file(file) else file for file in image["files"]]
    return {**image, "files": files}


def _recast(place: Place, image: Document, file: Document, target: str) -> Document:
    server, mtime = server_of(place.store, file)
    detail = image["version_detail"]
    content = version_tarball(
        place.channel, place.device, image["version"], detail, server=server, mtime=mtime, target=target
    )
    sha256 = hashlib.sha256(content).hexdigest()
    key = layout.key(layout.own_version_tarball(place.channel, place.device, image["version"], sha256))
    if place.store.head(f"{key}.asc") is None:
        put_signature(place.store, key, place.signer.detached(Role.IMAGE_SIGNING, content))
    with suppress(ConflictError):
        place.store.put_bytes(key, content, media_type=TAR_XZ, if_absent=True)
    return file_entry(_ref(key, content), file["order"])


def server_of(store: Store, file: Document) -> tuple[Server, int]:
    """The server that a version file names, and its time. Raises VerificationError when it is not the index's file."""
    key = layout.key(file["path"])
    ref = ArtifactRef(uri=key, sha256=file["checksum"], size_bytes=file["size"], media_type=TAR_XZ)
    said, mtime = read_identity(io.BytesIO(read_blob(store, ref)), key)
    try:
        ports = [None if said[name] == "disabled" else int(said[name]) for name in ("http_port", "https_port")]
        return Server(base=said["base"], http_port=ports[0], https_port=ports[1]), mtime
    except (KeyError, ValueError) as error:
        raise VerificationError("names no server", where=key, resolution="import the build again") from error


def version_file(image: Document, where: str) -> Document:
    """Raises NotFoundError for an image that no device could know by its version."""
    for file in image["files"]:
        if is_version_file(file):
            found: Document = file
            return found
    raise NotFoundError(
        f"version {image['version']} has no file that says its version", where=where, resolution="choose another one"
    )


def epoch(build_id: str) -> int:
    """Midnight UTC of the build's day: a time that the same build always has."""
    day = re.match(r"\d{8}", build_id)
    try:
        return int(datetime.strptime(day[0], "%Y%m%d").replace(tzinfo=UTC).timestamp()) if day else 1
    except ValueError:
        return 1


def _ref(key: str, content: bytes) -> ArtifactRef:
    return ArtifactRef(uri=key, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), media_type=TAR_XZ)
