"""Channels that take over from others by themselves, once a version has stood there long enough."""

from __future__ import annotations

from datetime import timedelta

from coreimage.model import Value
from coreimage.project.config import PromotionConfig
from coreimage.system_image.channels.changes import Change
from coreimage.system_image.channels.document import read_channels, read_index
from coreimage.system_image.channels.promotion import promote
from coreimage.system_image.documents import layout
from coreimage.system_image.server import ChannelTree


class Takeover(Value):
    """What was done for one device of a channel that takes over from another.

    `offered` is the newest version of the other channel, 0 while it has none; `change` is None where that version is
    not old enough yet.
    """

    device: str
    offered: int
    change: Change | None = None


def take_over(
    tree: ChannelTree, channel: str, device: str, config: PromotionConfig, *, delta_bases: int = 1
) -> Takeover:
    """Promote the newest version of the channel's source, if it is old enough.

    What the channel has as its newest version already is not published again.

    Args:
        config: The channel's `promotion`: its source, the least age, the phased percentage.
        delta_bases: From how many of the channel's newest versions deltas are made.
    """
    channels = read_channels(tree).channels
    offered = read_index(tree.store, channels, config.source, device).newest_version
    if not offered or version_age(tree, config.source, device, offered) < timedelta(hours=config.min_age_hours):
        return Takeover(device=device, offered=offered)
    change = promote(tree, config.source, channel, device, version=offered, phase=config.phase, delta_bases=delta_bases)
    return Takeover(device=device, offered=offered, change=change)


def version_age(tree: ChannelTree, channel: str, device: str, version: int) -> timedelta:
    """Return for how long a version has been there; no time at all where its file is gone."""
    info = tree.store.head(layout.key(layout.version_tarball(channel, device, version)))
    return tree.now() - info.modified if info else timedelta()
