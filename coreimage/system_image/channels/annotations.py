"""What is said of a version that a channel has: to how many devices it is offered, and whether retention keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from coreimage.client.documents import Image, Index
from coreimage.errors import ConflictError, UsageError
from coreimage.system_image.channels.changes import Change, change_images
from coreimage.system_image.channels.document import CurrentChannels
from coreimage.system_image.channels.versions import find_version
from coreimage.system_image.documents.index import ALL_DEVICES
from coreimage.system_image.server import ChannelTree


def set_phase(tree: ChannelTree, channel: str, device: str, percentage: int, *, version: int | None = None) -> Change:
    """Offer the newest version to so many percent of the devices: 0 withdraws it, 100 offers it to all.

    Args:
        version: The version that is meant; None: whichever is the newest.

    Raises:
        ConflictError: `version` is not the newest: a newer one came meanwhile.
    """
    check_phase(percentage)

    def phase(current: CurrentChannels, index: Index) -> list[Image]:
        newest = find_version(tree.store, current.channels, channel, device, None).version
        if version not in {None, newest}:
            raise ConflictError(
                f"version {version} is not the newest, which is {newest}",
                where=f"{channel} {device}",
                resolution="only the newest version can be phased",
            )
        return [with_phase(image, percentage) if image.version == newest else image for image in index.images]

    return change_images(tree, channel, device, phase)


def pin_version(tree: ChannelTree, channel: str, device: str, version: int, note: str = "") -> Change:
    """Keep a version from retention until it is unpinned; pinned again, it gets the new `note`.

    Raises:
        NotFoundError: The channel does not have the version.
    """
    return _change_pin(tree, channel, device, version, lambda image: replace(image, pinned=note))


def unpin_version(tree: ChannelTree, channel: str, device: str, version: int) -> Change:
    """Leave a version to retention again.

    Raises:
        NotFoundError: The channel does not have the version.
    """
    return _change_pin(tree, channel, device, version, lambda image: replace(image, pinned=None))


def with_phase(image: Image, percentage: int) -> Image:
    """Return the image as it is offered to so many percent of the devices."""
    return replace(image, phased_percentage=percentage)


def check_phase(percentage: int) -> None:
    """Raise UsageError for what is no percentage."""
    if not 0 <= percentage <= ALL_DEVICES:
        raise UsageError(
            f"{percentage} is not a percentage", resolution=f"a phase is a whole number from 0 to {ALL_DEVICES}"
        )


def _change_pin(tree: ChannelTree, channel: str, device: str, version: int, change: Callable[[Image], Image]) -> Change:
    def pin(current: CurrentChannels, index: Index) -> list[Image]:
        pinned = find_version(tree.store, current.channels, channel, device, version)
        return [change(image) if image == pinned else image for image in index.images]

    done = change_images(tree, channel, device, pin)
    return done.model_copy(update={"version": version})
