"""What the pages of channels show, from documents in a store."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from coreimage.client import Channel, Channels, DeviceEntry, Image, ImageFile, Index
from coreimage.errors import VerificationError
from coreimage.model import JSON
from coreimage.pages.builds import BuildReader
from coreimage.pages.channels import ChannelReader, parse_generated_at
from coreimage.pages.content import Delta
from coreimage.storage import Store, open_store
from coreimage.system_image.documents import layout

CHANNEL, DEVICE = "debian-core/13/edge", "generic_amd64"


def image(version: int, size_bytes: int, base: int | None = None, *, compact: bool = False, phase: int = 100) -> Image:
    path = f"/pool/ubuntu-{version}-{size_bytes}.tar.xz"
    return Image(
        version,
        "full" if base is None else "delta",
        base,
        f"version={version}",
        "",
        (ImageFile(path, f"{path}.asc", "0" * 64, size_bytes, 0),),
        form="compact" if compact else "legacy",
        phased_percentage=phase,
    )


IMAGES = (
    image(1, 900),
    image(2, 900),
    image(3, 900, phase=20),
    image(3, 500, 2, phase=20),
    image(3, 700, 1, phase=20),
    image(3, 60, 2, compact=True, phase=20),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path))
    channels = Channels(
        {
            CHANNEL: Channel({DEVICE: DeviceEntry("/index.json")}),
            "alias": Channel({DEVICE: DeviceEntry("/no-index.json")}, alias=CHANNEL),
            "old": Channel({}, redirect="alias", hidden=True),
        }
    )
    put(store, layout.CHANNELS, channels.to_bytes())
    put(store, "/index.json", Index(IMAGES).to_bytes())
    return store


def put(store: Store, path: str, content: bytes) -> None:
    store.put_bytes(layout.key(path), content, media_type=JSON)


def reader(store: Store) -> ChannelReader:
    return ChannelReader(store, (), BuildReader(store))


def test_of_both_forms_of_a_delta_the_one_that_devices_take_is_shown(store: Store) -> None:
    (device,) = reader(store).channels()[1].devices
    assert [version.deltas for version in device.versions] == [(Delta(2, 60), Delta(1, 700)), (), ()]
    assert [version.smallest_delta for version in device.versions] == [Delta(2, 60), None, None]
    assert [version.phased_percentage for version in device.versions] == [20, None, None]
    assert [version.changes.since for version in device.versions] == ["version 2", "version 1", ""]


def test_of_channels_that_nobody_asked_for_only_the_newest_version_is_read(store: Store) -> None:
    (device,) = reader(store).channels({"alias"})[1].devices
    assert ([version.number for version in device.versions], device.older) == ([3], 2)
    (device,) = reader(store).channels({CHANNEL})[1].devices
    assert ([version.number for version in device.versions], device.older) == ([3, 2, 1], 0)


def test_channels_say_what_they_lead_to(store: Store) -> None:
    shown = {channel.name: (channel.kind, channel.target, channel.hidden) for channel in reader(store).channels()}
    assert shown == {CHANNEL: ("", "", False), "alias": ("alias", CHANNEL, False), "old": ("redirect", "alias", True)}
    assert reader(store).with_followers({CHANNEL}) == {CHANNEL, "alias"}
    assert reader(store).with_followers({"alias"}) == {"alias", "old"}


def test_a_store_without_channels_has_no_page_of_one(tmp_path: Path) -> None:
    assert reader(open_store(str(tmp_path))).channels() == ()


def test_damaged_channels_are_not_taken_for_none(store: Store) -> None:
    """Or else the pages of all channels would go."""
    put(store, layout.CHANNELS, b"{")
    with pytest.raises(VerificationError, match="not JSON"):
        reader(store).channels()


def test_the_day_of_a_document() -> None:
    assert parse_generated_at("Tue Nov 03 08:04:20 UTC 2026") == date(2026, 11, 3)
