"""The channels document and what hangs on it: read verified, moved by compare-and-swap, derived pairs healed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from coreimage.errors import ConflictError, VerificationError
from coreimage.model import JSON, OPENPGP_MESSAGE, OPENPGP_SIGNATURE, ArtifactRef
from coreimage.signing import Role, Signer, open_inline, says, signs
from coreimage.storage import Store, read_bytes
from coreimage.system_image import layout
from coreimage.system_image.documents import (
    Document,
    channels_with,
    compact_bytes,
    images_of,
    json_bytes,
    signed_channels,
)
from coreimage.system_image.payload import put_signature

CHANNELS_LIFETIME = timedelta(days=90)
"""How long clients believe a channels document: whoever serves them an old one is found out after this."""
_HEAL_ATTEMPTS = 100
"""All but the last of them mean that a change of somebody else went through: in a fan-out, one after the other."""


@dataclass(frozen=True)
class Channels:
    """`etag` is None while there is no channels document. `number` grows with every document, `expires` is UNIX seconds
    (0: none yet). `retired` keeps the newest version of what was removed, by channel and device: no number comes twice.
    """

    document: Document
    etag: str | None
    number: int = 0
    expires: int = 0
    retired: dict[str, dict[str, int]] = field(default_factory=dict)


def read_channels(store: Store, signer: Signer) -> Channels:
    """Raises VerificationError unless image-signing signed it."""
    key = layout.key(layout.CHANNELS_SIGNED)
    while (found := store.head(key)) is not None:
        message = read_bytes(store, key)
        again = store.head(key)
        if message is not None and again is not None and again.etag == found.etag:
            keyring = [signer.public_key(Role.IMAGE_SIGNING)]
            return _opened(open_inline(message, keyring, where=key)[1], found.etag)
    return Channels({}, None)


def _opened(content: bytes, etag: str) -> Channels:
    """Documents written before there were numbers are of number 0."""
    document = json.loads(content)
    if not isinstance(document.get("number"), int):
        return Channels(document, etag)
    return Channels(document["channels"], etag, document["number"], document["expires"], document.get("retired", {}))


def read_images(store: Store, channels: Document, channel: str, device: str) -> list[Document]:
    """The images that a channels document names, oldest first; none for a new channel or device."""
    entry = channels.get(channel, {"devices": {}})["devices"].get(device)
    if entry is None:
        return []
    return images_of(json.loads(read_index(store, entry)))


def read_index(store: Store, entry: Document) -> bytes:
    """The index that a device's entry names. Raises VerificationError when other bytes are there, or none."""
    key = layout.key(entry["index"])
    content = read_bytes(store, key)
    if content is None or hashlib.sha256(content).hexdigest() != entry["index_sha256"]:
        raise VerificationError(
            "the index is not the one that the channel names", where=key, resolution="restore it from a backup"
        )
    return content


def put_channels(
    current: Channels, document: Document, *, store: Store, signer: Signer, now: Callable[[], datetime]
) -> Channels:
    """Replaces `current`; its number is higher. Raises ConflictError when the channels document is no longer `current`.

    Numbers are seconds since 1970 where the clock allows, so that they grow even after a backup was restored.
    """
    at = now()
    number = max(current.number + 1, int(at.timestamp()))
    moved = replace(current, document=document, number=number, expires=int((at + CHANNELS_LIFETIME).timestamp()))
    content = compact_bytes(signed_channels(document, number=number, expires=moved.expires, retired=moved.retired))
    message = signer.inline(Role.IMAGE_SIGNING, content)
    condition: dict[str, Any] = {"if_match": current.etag} if current.etag else {"if_absent": True}
    info = store.put_bytes(layout.key(layout.CHANNELS_SIGNED), message, media_type=OPENPGP_MESSAGE, **condition)
    return replace(moved, etag=info.etag)


def put_index(channel: str, device: str, document: Document, *, store: Store, signer: Signer) -> ArtifactRef:
    """Signature first: an index that is there can be verified."""
    content = json_bytes(document)
    sha256 = hashlib.sha256(content).hexdigest()
    key = layout.key(layout.index(channel, device, sha256))
    if store.head(key) is None:
        put_signature(store, key, signer.detached(Role.IMAGE_SIGNING, content))
        with suppress(ConflictError):
            store.put_bytes(key, content, media_type=JSON, if_absent=True)
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=len(content), media_type=JSON)


def put_candidate_channels(
    channel: str, device: str, version: int, index: ArtifactRef, *, store: Store, signer: Signer
) -> ArtifactRef:
    """A channels document of nothing but this candidate; one that says the same is kept.

    It says that it is a candidate's, so that nobody can serve it as the channels document of the server.
    """
    key = layout.key(layout.candidate_channels(channel, device, version))
    named = channels_with({}, channel, device, index.sha256)
    content = compact_bytes(signed_channels(named, number=version, candidate=True))
    message = read_bytes(store, key)
    if message is None or not says(message, content, signer):
        message = signer.inline(Role.IMAGE_SIGNING, content)
        store.put_bytes(key, message, media_type=OPENPGP_MESSAGE)
    sha256 = hashlib.sha256(message).hexdigest()
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=len(message), media_type=OPENPGP_MESSAGE)


def heal_pair(*, store: Store, signer: Signer, thorough: bool = True) -> bool:
    """Rewrites the derived pairs (channels.json, each index.json, and their signatures) until they equal the signed
    channels document; whether anything had to be written.

    Unless it is `thorough`, only devices are looked at whose entry differs from that of channels.json. As channels.json
    is written last, these are the ones that a killed command may have left behind.
    """
    healed = False
    for _ in range(_HEAL_ATTEMPTS):
        channels = read_channels(store, signer)
        if channels.etag is None:
            return healed
        derived = _derived(store, channels.document, {} if thorough else _paired(store))
        written = [_write_pair(store, signer, key, content) for key, content in derived]
        healed = healed or any(written)
        again = store.head(layout.key(layout.CHANNELS_SIGNED))
        if again is not None and again.etag == channels.etag:
            return healed
    raise ConflictError(
        "the channels document keeps changing", where=store.url, resolution="run `coreimage verify --repair` later"
    )


def _derived(store: Store, channels: Document, paired: Document) -> Iterator[tuple[str, bytes]]:
    """The channels document last, as it is what old clients start from."""
    for channel, device, entry in _own_indexes(channels):
        if paired.get(channel, {}).get("devices", {}).get(device, {}).get("index") == entry["index"]:
            continue
        content = read_bytes(store, layout.key(entry["index"]))
        if content is not None:
            yield layout.key(layout.plain_index(channel, device)), content
    yield layout.key(layout.CHANNELS), json_bytes(channels)


def _own_indexes(channels: Document) -> Iterator[tuple[str, str, Document]]:
    """Channel, device and entry wherever an index is of the channel itself."""
    for channel, entry in sorted(channels.items()):
        for device, device_entry in sorted(entry["devices"].items()):
            if not entry.get("redirect") and not device_entry.get("redirect"):
                yield channel, device, device_entry


def _paired(store: Store) -> Document:
    """channels.json as it is, for comparing only."""
    try:
        found = json.loads(read_bytes(store, layout.key(layout.CHANNELS)) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write_pair(store: Store, signer: Signer, key: str, content: bytes) -> bool:
    signature = read_bytes(store, f"{key}.asc")
    if read_bytes(store, key) == content and signs(signature, content, Role.IMAGE_SIGNING, signer):
        return False
    store.put_bytes(f"{key}.asc", signer.detached(Role.IMAGE_SIGNING, content), media_type=OPENPGP_SIGNATURE)
    store.put_bytes(key, content, media_type=JSON)
    return True
