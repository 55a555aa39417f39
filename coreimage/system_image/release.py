"""Moves a channel to a candidate: exactly what was tested, by compare-and-swap."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

import structlog

from coreimage.errors import ConflictError, VerificationError
from coreimage.model import ArtifactRef, Candidate, Release
from coreimage.signing import Signer
from coreimage.storage import Store, read_blob
from coreimage.system_image import layout
from coreimage.system_image.documents import Document, generated_at, index_with, newest_version
from coreimage.system_image.tree import Channels, heal_pair, move_channel, put_index, read_channels, read_images

log = structlog.get_logger("coreimage.system_image")

_ATTEMPTS = 50
"""How often others may move channels in between before we give up."""


def release_candidate(candidate: Candidate, *, store: Store, signer: Signer, now: Callable[[], datetime]) -> Release:
    """The channel names the candidate's version when this returns; doing it twice changes nothing.

    When the channel moved since the import, the index is made again of what it is now and exactly the candidate's
    image. Raises ConflictError for a version that is not newer than the channel's newest.
    """
    document, image = _candidate_index(candidate, store)
    for _ in range(_ATTEMPTS):
        current = read_channels(store, signer)
        images = read_images(store, current.document, candidate.channel, candidate.device)
        if image in images:
            heal_pair(store=store, signer=signer)
            return _release(candidate, _current_index(candidate, current, store))
        _require_newer(candidate, images)
        if images != document["images"][:-1]:
            at = generated_at(now())
            document = index_with(images, image, candidate.channel, candidate.device, at)
        index = put_index(candidate.channel, candidate.device, document, store=store, signer=signer)
        try:
            move_channel(current, candidate.channel, candidate.device, index, store=store, signer=signer)
        except ConflictError:
            continue
        log.info("released", channel=candidate.channel, device=candidate.device, version=candidate.version)
        heal_pair(store=store, signer=signer)
        return _release(candidate, index)
    raise ConflictError(
        "others keep moving the channels",
        where=f"{candidate.channel} {candidate.device}",
        resolution="run the release again",
    )


def _candidate_index(candidate: Candidate, store: Store) -> tuple[Document, Document]:
    """The candidate's index and its image, which is its last."""
    document: Document = json.loads(read_blob(store, candidate.index))
    image: Document = document["images"][-1]
    if image["version"] != candidate.version:
        raise VerificationError(
            f"the candidate's index ends with version {image['version']}, not {candidate.version}",
            where=candidate.index.uri,
            resolution="import the build again",
        )
    return document, image


def _require_newer(candidate: Candidate, images: list[Document]) -> None:
    newest = newest_version(images)
    if candidate.version <= newest:
        raise ConflictError(
            f"version {candidate.version} is not newer than version {newest}, which is released",
            where=f"{candidate.channel} {candidate.device}",
            resolution="import the build again: it gets the next number",
        )


def _current_index(candidate: Candidate, current: Channels, store: Store) -> ArtifactRef:
    entry = current.document[candidate.channel]["devices"][candidate.device]
    key = layout.key(entry["index"])
    found = store.head(key)
    size_bytes = found.size_bytes if found else 0
    return ArtifactRef(
        uri=key, sha256=entry["index_sha256"], size_bytes=size_bytes, media_type=candidate.index.media_type
    )


def _release(candidate: Candidate, index: ArtifactRef) -> Release:
    return Release(channel=candidate.channel, device=candidate.device, version=candidate.version, index=index)
