"""Candidates: versions that are whole and signed, and that no channel names yet."""

from __future__ import annotations

import re
from collections.abc import Iterator

from coreimage.client.documents import Channel, SignedChannels
from coreimage.storage import Store
from coreimage.system_image.channels.document import CurrentChannels, read_index
from coreimage.system_image.documents import layout

CANDIDATE = re.compile(r"(?P<channel>.+)/(?P<device>[^/]+)/candidates/(?P<version>[1-9]\d*)/channels\.json\.gpg")
"""The path of a candidate's channels document, below the web root."""


def may_be_released(document: SignedChannels, channel: str, device: str, version: int, *, newest: int) -> bool:
    """Return whether a candidate can still become a version of its channel. Pure.

    Args:
        document: The channels.
        channel: Whose candidate it is; the channel need not be there yet.
        device: The device that it is for.
        version: Its number.
        newest: The newest version that the channel names for the device; 0 for none.
    """
    described = document.channels.get(channel, Channel())
    entry = described.devices.get(device)
    if described.alias or described.redirect or (entry is not None and entry.redirect):
        return False
    return version > max(newest, document.retired.get(channel, {}).get(device, 0))


def waiting_candidates(current: CurrentChannels, store: Store) -> Iterator[str]:
    """Yield the store's keys of the documents of candidates that can still be released."""
    for info in store.list(layout.ROOT):
        match = CANDIDATE.fullmatch(info.key.removeprefix(layout.ROOT))
        if match is None:
            continue
        channel, device, version = match["channel"], match["device"], int(match["version"])
        newest = read_index(store, current.channels, channel, device).newest_version
        if may_be_released(current.signed, channel, device, version, newest=newest):
            yield info.key
