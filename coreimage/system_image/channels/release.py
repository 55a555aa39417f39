"""Moves a channel to a candidate: exactly what was tested, by compare-and-swap."""

from __future__ import annotations

import structlog

from coreimage.client import RepositoryError
from coreimage.client.documents import Channels, Image, Index
from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import ArtifactRef, Candidate, Release
from coreimage.storage import Store, read_blob
from coreimage.system_image.channels.changes import change_channels
from coreimage.system_image.channels.document import CurrentChannels, put_index, read_index
from coreimage.system_image.channels.versions import last_number
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.channel_rules import require_writable, with_index
from coreimage.system_image.documents.index import build_index, generated_at, is_same_publication
from coreimage.system_image.server import ChannelTree

log = structlog.get_logger("coreimage.system_image")


def release_candidate(tree: ChannelTree, candidate: Candidate) -> Release:
    """Let the channel name the candidate's version; doing it twice changes nothing.

    When the channel moved since the import, the index is made again of what it has now and exactly the candidate's
    images.

    Raises:
        ConflictError: The version is not newer than the channel's newest one.
        UsageError: The content of the channel or the device is another channel's.
        NotFoundError: A file of the candidate is no longer there.
    """
    channel, device = candidate.channel, candidate.device
    tested, images = _read_candidate(tree.store, candidate)

    def release(current: CurrentChannels) -> Channels:
        require_writable(current.channels, channel, device)
        index = read_index(tree.store, current.channels, channel, device)
        if any(is_same_publication(image, images[0]) for image in index.images):
            return current.channels
        newest = last_number(current, index, channel, device)
        if candidate.version <= newest:
            raise ConflictError(
                f"version {candidate.version} is not newer than version {newest}, which is released",
                where=f"{channel} {device}",
                resolution="import the build again: it gets the next number",
            )
        bases = {image.version for image in index.fulls}
        usable = [image for image in images if image.base is None or image.base in bases]
        for image in usable:
            require_files(tree.store, image)
        wanted = build_index([*index.images, *usable], channel, device, tested.generated_at)
        if wanted != tested:
            wanted = build_index(wanted.images, channel, device, generated_at(tree.now()))
        return with_index(current.channels, channel, device, put_index(tree, wanted).sha256)

    _, current = change_channels(tree, release)
    log.info("released", channel=channel, device=device, version=candidate.version)
    entry = current.channels[channel].devices[device]
    info = tree.store.head(layout.key(entry.index))
    index = ArtifactRef(
        uri=layout.key(entry.index),
        sha256=entry.index_sha256 or "",
        size_bytes=info.size_bytes if info else 0,
        media_type=candidate.index.media_type,
    )
    return Release(channel=channel, device=device, version=candidate.version, index=index)


def require_files(store: Store, image: Image) -> None:
    """Raise NotFoundError for a file that is gone, so that no channel ever names one."""
    for file in image.files:
        for path in (file.path, file.signature):
            if store.head(layout.key(path)) is None:
                raise NotFoundError(
                    "a file of the version is no longer there", where=path, resolution="import the build again"
                )


def _read_candidate(store: Store, candidate: Candidate) -> tuple[Index, tuple[Image, ...]]:
    """Read the candidate's index and, from it, the candidate's full image and then its deltas."""
    uri = candidate.index.uri
    try:
        index = Index.from_bytes(read_blob(store, candidate.index), uri)
    except RepositoryError as error:
        raise VerificationError(error.problem, where=uri, resolution="import the build again") from error
    images = tuple(image for image in index.images if image.version == candidate.version)
    if not images or images[0].type != "full" or images != index.images[-len(images) :]:
        raise VerificationError(
            f"the candidate's index does not end with version {candidate.version}",
            where=uri,
            resolution="import the build again",
        )
    return index, images
