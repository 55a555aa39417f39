"""Version numbers of devices that move from one channel to another: numbers go on, so that no device waits for ever.
Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coreimage.client.documents import Channels
from coreimage.system_image.channels.document import CurrentChannels
from coreimage.system_image.documents.channel_rules import home_of


@dataclass(frozen=True)
class ForeignNumbers:
    """Devices of `channel` that get the versions of channel `home` from now on, and have at most version `number`.

    `is_other_content` is false after a rename: there the same numbers are the same versions.
    """

    channel: str
    device: str
    home: str
    number: int
    is_other_content: bool


def foreign_numbers(
    before: CurrentChannels, channels: Channels, retired: Mapping[str, Mapping[str, int]]
) -> list[ForeignNumbers]:
    """Return the devices that a change of the channels moves to another channel's versions.

    Args:
        before: The channels before the change.
        channels: The channels after it.
        retired: The newest number that each channel gave to devices whose versions are not its own any more.
    """
    moves = []
    for name, devices in retired.items():
        for device, newest in devices.items():
            home, home_before = home_of(channels, name, device), home_of(before.channels, name, device)
            if name not in channels or home in {name, home_before}:
                continue
            is_renamed = name in before.channels and home_before == name and channels[name].redirect is not None
            number = before.retired.get(name, {}).get(device, 0) if is_renamed else newest
            moves.append(ForeignNumbers(name, device, home, number, is_other_content=not is_renamed))
    return moves


def with_numbers(
    retired: Mapping[str, Mapping[str, int]], moves: Sequence[ForeignNumbers]
) -> dict[str, dict[str, int]]:
    """Return the retired numbers so that the next version of each channel is above those of devices that move to it."""
    numbers = {channel: dict(devices) for channel, devices in retired.items()}
    for move in moves:
        if move.number:
            known = numbers.setdefault(move.home, {})
            known[move.device] = max(move.number, known.get(move.device, 0))
    return numbers
