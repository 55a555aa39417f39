"""The channels document and what hangs on it: read verified, moved by compare-and-swap, derived pairs healed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import JSON, OPENPGP_MESSAGE, OPENPGP_SIGNATURE, ArtifactRef
from coreimage.signing import Role, Signer, open_inline, verify_detached
from coreimage.storage import Store
from coreimage.system_image import layout
from coreimage.system_image.documents import Document, channels_with, json_bytes
from coreimage.system_image.payload import put_signature

_HEAL_ATTEMPTS = 8


@dataclass(frozen=True)
class Channels:
    """`etag` is None while there is no channels document."""

    document: Document
    etag: str | None


def read_channels(store: Store, signer: Signer) -> Channels:
    """Raises VerificationError unless image-signing signed it."""
    key = layout.key(layout.CHANNELS_SIGNED)
    while (found := store.head(key)) is not None:
        message = _read(store, key)
        again = store.head(key)
        if message is not None and again is not None and again.etag == found.etag:
            keyring = [signer.public_key(Role.IMAGE_SIGNING)]
            return Channels(json.loads(open_inline(message, keyring, where=key)[1]), found.etag)
    return Channels({}, None)


def read_images(store: Store, channels: Document, channel: str, device: str) -> list[Document]:
    """The images that a channels document names, oldest first; none for a new channel or device."""
    entry = channels.get(channel, {"devices": {}})["devices"].get(device)
    if entry is None:
        return []
    key = layout.key(entry["index"])
    content = _read(store, key)
    if content is None or hashlib.sha256(content).hexdigest() != entry["index_sha256"]:
        raise VerificationError(
            "the index is not the one that the channel names", where=key, resolution="restore it from a backup"
        )
    images: list[Document] = json.loads(content)["images"]
    return images


def move_channel(
    current: Channels, channel: str, device: str, index: ArtifactRef, *, store: Store, signer: Signer
) -> None:
    """Raises ConflictError when the channels document is no longer `current`."""
    content = json_bytes(channels_with(current.document, channel, device, index.sha256))
    message = signer.inline(Role.IMAGE_SIGNING, content)
    condition: dict[str, Any] = {"if_match": current.etag} if current.etag else {"if_absent": True}
    store.put_bytes(layout.key(layout.CHANNELS_SIGNED), message, media_type=OPENPGP_MESSAGE, **condition)


def put_index(channel: str, device: str, document: Document, *, store: Store, signer: Signer) -> ArtifactRef:
    """Signature first: an index that is there can be verified."""
    content = json_bytes(document)
    sha256 = hashlib.sha256(content).hexdigest()
    key = layout.key(layout.index(channel, device, sha256))
    put_signature(store, key, signer.detached(Role.IMAGE_SIGNING, content))
    with suppress(ConflictError):
        store.put_bytes(key, content, media_type=JSON, if_absent=True)
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=len(content), media_type=JSON)


def put_candidate_channels(
    channel: str, device: str, version: int, index: ArtifactRef, *, store: Store, signer: Signer
) -> ArtifactRef:
    """A channels document of nothing but this candidate; one that says the same is kept."""
    key = layout.key(layout.candidate_channels(channel, device, version))
    content = json_bytes(channels_with({}, channel, device, index.sha256))
    message = _read(store, key)
    if message is None or not _says(message, content, signer):
        message = signer.inline(Role.IMAGE_SIGNING, content)
        store.put_bytes(key, message, media_type=OPENPGP_MESSAGE)
    sha256 = hashlib.sha256(message).hexdigest()
    return ArtifactRef(uri=key, sha256=sha256, size_bytes=len(message), media_type=OPENPGP_MESSAGE)


def heal_pair(*, store: Store, signer: Signer) -> bool:
    """Rewrites the derived pairs (channels.json, each index.json, and their signatures) until they equal the signed
    channels document; whether anything had to be written."""
    healed = False
    for _ in range(_HEAL_ATTEMPTS):
        channels = read_channels(store, signer)
        if channels.etag is None:
            return healed
        written = [_write_pair(store, signer, key, content) for key, content in _derived(store, channels.document)]
        healed = healed or any(written)
        if read_channels(store, signer).etag == channels.etag:
            return healed
    raise ConflictError(
        "the channels document keeps changing", where=store.url, resolution="run `coreimage verify --repair` later"
    )


def _derived(store: Store, channels: Document) -> Iterator[tuple[str, bytes]]:
    """The channels document last, as it is what old clients start from."""
    for channel, entry in sorted(channels.items()):
        if entry.get("redirect"):
            continue
        for device, device_entry in sorted(entry["devices"].items()):
            content = _read(store, layout.key(device_entry["index"]))
            if content is not None and not device_entry.get("redirect"):
                yield layout.key(layout.plain_index(channel, device)), content
    yield layout.key(layout.CHANNELS), json_bytes(channels)


def _write_pair(store: Store, signer: Signer, key: str, content: bytes) -> bool:
    signature = _read(store, f"{key}.asc")
    if _read(store, key) == content and signature is not None and _signs(signature, content, signer):
        return False
    store.put_bytes(f"{key}.asc", signer.detached(Role.IMAGE_SIGNING, content), media_type=OPENPGP_SIGNATURE)
    store.put_bytes(key, content, media_type=JSON)
    return True


def _signs(signature: bytes, content: bytes, signer: Signer) -> bool:
    try:
        verify_detached(content, signature, [signer.public_key(Role.IMAGE_SIGNING)])
    except VerificationError:
        return False
    return True


def _says(message: bytes, content: bytes, signer: Signer) -> bool:
    try:
        return open_inline(message, [signer.public_key(Role.IMAGE_SIGNING)])[1] == content
    except VerificationError:
        return False


def _read(store: Store, key: str) -> bytes | None:
    try:
        with store.open(key) as file:
            return file.read()
    except NotFoundError:
        return None
