"""Which candidates can still become a version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coreimage.client.documents import Channel, Channels, DeviceEntry, SignedChannels
from coreimage.system_image.channels.candidates import may_be_released, waiting_candidates
from coreimage.system_image.channels.document import read_channels
from coreimage.system_image.channels.release import release_candidate
from coreimage.system_image.server import ChannelTree
from tests.unit.system_image.published import DEVICE, EDGE, STABLE, make_candidate

ENTRY = DeviceEntry("/index.json", index_sha256="0" * 64)


def document(channel: Channel, retired: int = 0) -> SignedChannels:
    return SignedChannels(Channels({EDGE: channel}), number=1, retired={EDGE: {DEVICE: retired}} if retired else {})


@pytest.mark.parametrize(
    ("channel", "released"),
    [
        (Channel(), True),
        (Channel(devices={DEVICE: ENTRY}), True),
        (Channel(devices={"other": replace(ENTRY, redirect=STABLE)}), True),
        (Channel(devices={DEVICE: replace(ENTRY, redirect=STABLE)}), False),
        (Channel(alias=STABLE), False),
        (Channel(redirect=STABLE), False),
    ],
    ids=["no device yet", "a device", "another device is redirected", "the device is redirected", "alias", "redirect"],
)
def test_what_follows_another_channel_gets_no_version_of_its_own(channel: Channel, released: bool) -> None:
    assert may_be_released(document(channel), EDGE, DEVICE, 7, newest=0) == released


@pytest.mark.parametrize(("newest", "retired", "released"), [(6, 6, True), (7, 0, False), (0, 7, False), (8, 8, False)])
def test_numbers_only_grow_also_past_versions_that_are_gone(newest: int, retired: int, released: bool) -> None:
    channels = document(Channel(devices={DEVICE: ENTRY}), retired)
    assert may_be_released(channels, EDGE, DEVICE, 7, newest=newest) == released
    assert may_be_released(channels, "another", DEVICE, 1, newest=0)


def waiting(tree: ChannelTree) -> list[str]:
    return list(waiting_candidates(read_channels(tree), tree.store))


def test_candidates_wait_until_their_version_or_a_later_one_is_there(tree: ChannelTree) -> None:
    first = make_candidate(tree, b"one")
    other = make_candidate(tree, b"one", STABLE)
    assert sorted(waiting(tree)) == sorted([first.channels.uri, other.channels.uri])
    release_candidate(tree, first)
    second, third = make_candidate(tree, b"two"), make_candidate(tree, b"three")
    assert sorted(waiting(tree)) == sorted(each.channels.uri for each in (other, second, third))
    release_candidate(tree, third)
    assert waiting(tree) == [other.channels.uri]
