"""Moves a channel to a candidate: exactly what was tested, by compare-and-swap."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

import structlog

from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import ArtifactRef, Candidate, Release
from coreimage.signing import Signer
from coreimage.storage import Store, read_blob
from coreimage.system_image import layout
from coreimage.system_image.channels import change_channels
from coreimage.system_image.documents import (
    Document,
    channels_with,
    fulls,
    generated_at,
    images_of,
    index_with,
    same_image,
)
from coreimage.system_image.edits import require_writable
from coreimage.system_image.tree import Channels, put_index, read_images
from coreimage.system_image.versions import last_number

log = structlog.get_logger("coreimage.system_image")


def release_candidate(candidate: Candidate, *, store: Store, signer: Signer, now: Callable[[], datetime]) -> Release:
    """The channel names the candidate's version when this returns; doing it twice changes nothing.

    When the channel moved since the import, the index is made again of what it is now and exactly the candidate's
    image. Raises ConflictError for a version that is not newer than the channel's newest, UsageError for an alias or
    a redirect, NotFoundError when a file of the candidate is gone.
    """
    document, made = _candidate_index(candidate, store)
    channel, device = candidate.channel, candidate.device

    def edit(current: Channels) -> Document:
        require_writable(current.document, channel, device)
        images = read_images(store, current.document, channel, device)
        if any(same_image(each, made[0]) for each in images):
            return current.document
        _require_newer(candidate, last_number(current, images, channel, device))
        versions = {image["version"] for image in fulls(images)}
        entries = [entry for entry in made if entry.get("base", 0) in {0, *versions}]
        for entry in entries:
            require_files(store, entry)
        wanted = index_with(images, entries, channel, device, document["global"]["generated_at"])
        if wanted != document:
            wanted = index_with(images, entries, channel, device, generated_at(now()))
        index = put_index(channel, device, wanted, store=store, signer=signer)
        return channels_with(current.document, channel, device, index.sha256)

    moved = change_channels(edit, store=store, signer=signer, now=now)
    log.info("released", channel=channel, device=device, version=candidate.version)
    return _release(candidate, _current_index(candidate, moved, store))


def require_files(store: Store, image: Document) -> None:
    """Raises NotFoundError for a file that is gone, so that no channel ever names one."""
    for file in image["files"]:
        for path in (file["path"], file["signature"]):
            if store.head(layout.key(path)) is None:
                raise NotFoundError("it is no longer there", where=path, resolution="import the build again")


def _candidate_index(candidate: Candidate, store: Store) -> tuple[Document, list[Document]]:
    """The candidate's index and, from it, its full image and then its deltas."""
    document: Document = json.loads(read_blob(store, candidate.index))
    images = images_of(document)
    made = [image for image in images if image["version"] == candidate.version]
    if not made or made[0]["type"] != "full" or made != images[-len(made) :]:
        raise VerificationError(
            f"the candidate's index does not end with version {candidate.version}",
            where=candidate.index.uri,
            resolution="import the build again",
        )
    return document, made


def _require_newer(candidate: Candidate, newest: int) -> None:
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
