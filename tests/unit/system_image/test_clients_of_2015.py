"""Clients of 2015 on any tree that our operations can make: none goes back, none is left behind, none applies a delta
to what it was not made for. The client is the original's search, written from its description (system-image §3)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coreimage.errors import CoreimageError
from coreimage.storage import read_bytes
from coreimage.system_image.channels.annotations import set_phase
from coreimage.system_image.channels.changes import (
    alias_channel,
    redirect_channel,
    remove_channel,
    rename_channel,
)
from coreimage.system_image.channels.cleanup import expire_versions
from coreimage.system_image.channels.document import read_channels
from coreimage.system_image.channels.promotion import promote, roll_back, tag_image
from coreimage.system_image.channels.release import release_candidate
from coreimage.system_image.channels.versions import last_number
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.channel_rules import home_of
from coreimage.system_image.server import ChannelTree
from tests.harness.examples import examples
from tests.harness.strict_client import winner
from tests.harness.strict_client.payloads import identity
from tests.unit.system_image.published import DEVICE, index_of, make_candidate, make_tree

JsonObject = dict[str, Any]
OWN = ["edge", "stable"]
NAMES = [*OWN, "alias", "old"]
PHASES = (100, 10, 0)
_MOST_DEVICES = 40


@dataclass(frozen=True)
class Installed:
    """What a device has: its identity, and the digest of its content."""

    channel: str
    build: int
    target: str | None
    content: str


class Field:
    """A tree, and the devices that ever had a version of it: those that update at once, and those that are off."""

    def __init__(self) -> None:
        self.tree = make_tree()
        self.devices: set[Installed] = set()
        self._releases = 0
        self._identities: dict[str, dict[str, str]] = {}

    def _identity(self, image: JsonObject) -> Installed:
        """What a device is once the image is applied."""
        path = next(file["path"] for file in image["files"] if "/version-" in file["path"])
        if path not in self._identities:
            self._identities[path] = _read_identity(read_bytes(self.tree.store, layout.key(path)) or b"")
        values = self._identities[path]
        target = values.get("channel_target")
        return Installed(values["channel"], int(values["build_number"]), target, _content(image))

    # What people do

    def release(self, channel: str, *, is_zstd: bool, gaps: int) -> None:
        self._releases += 1
        content = f"content {self._releases}".encode()
        bases = [image.version for image in index_of(self.tree, channel).fulls if image.form == "legacy"]
        retired = read_channels(self.tree).retired.get(channel, {}).get(DEVICE, 0)
        bases = [] if is_zstd else [base for base in bases[-3:] if base > retired and gaps & 1 << base % 3]
        suffix = ".zst" if is_zstd else ".xz"
        release_candidate(self.tree, make_candidate(self.tree, content, channel, bases=bases, suffix=suffix))

    # What devices do

    def enrol(self) -> None:
        """Each version that a device can have from the start: flashed, or installed by a client of ours."""
        channels = read_channels(self.tree).channels
        for name, channel in channels.items():
            if DEVICE in channel.devices:
                for image in index_of(self.tree, name).fulls:
                    self.devices.add(self._identity(image.to_json()))

    def update(self) -> None:
        """Each device looks for an update, whatever its place in a phase; those that update also stay as they were, as
        others of their kind are off. So do devices that switch to a channel, which count as without a version."""
        switching = {Installed(name, 0, None, "of another channel") for name in read_channels(self.tree).channels}
        found = {update for device in self.devices | switching for update in self.updates(device)}
        self.devices |= found
        self.devices = set(islice(sorted(self.devices, key=repr), _MOST_DEVICES))

    def updates(self, device: Installed) -> Iterator[Installed]:
        channels = read_channels(self.tree).channels
        channel = channels.get(device.channel)
        if channel is None or DEVICE not in channel.devices:
            return
        entry = channel.devices[DEVICE]
        index = json.loads(read_bytes(self.tree.store, layout.key(entry.index)) or b"")
        images: list[JsonObject] = index["images"]
        is_moved = channel.alias and device.target and channel.alias != device.target
        build = 0 if is_moved else device.build
        newest = max((image["version"] for image in [*images, *index.get("compact", [])]), default=0)
        for percentage in (0, 50, 100):
            path = winner(images, build, percentage)
            if not path:
                continue
            last = path[-1]["version"]
            if path[0]["type"] == "delta":
                base = next(i for i in images if i["type"] == "full" and i["version"] == path[0]["base"])
                assert _content(base) == device.content, "a delta is applied to what it was made for"
            assert last == newest or last > build > 0, "no way leads back"
            yield self._identity(path[-1])
        is_offered = images and images[-1]["version"] == newest and images[-1].get("phased-percentage", 100) == 100
        if is_offered and build < newest:
            assert winner(images, build, 100)[-1]["version"] == newest, "nobody is left behind"
        home = home_of(channels, device.channel, DEVICE)
        current = read_channels(self.tree)
        assert is_moved or build <= last_number(current, index_of(self.tree, home), home, DEVICE), (
            "the next version is above every device that will look for it"
        )


def _content(image: JsonObject) -> str:
    return next(str(file["checksum"]) for file in image["files"] if "/version-" not in file["path"])


def _read_identity(tarball: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(tarball)) as tar:
        file = tar.extractfile("system/etc/system-image/channel.ini")
        assert file is not None
        return identity(file.read().decode())


Operation = Callable[[ChannelTree, str, str, int], object]
OPERATIONS: dict[str, Operation] = {
    "phase": lambda tree, one, _, number: set_phase(tree, one, DEVICE, PHASES[number % 3]),
    "roll back": lambda tree, one, _, number: roll_back(
        tree, one, DEVICE, 1 + number % 6, phase=PHASES[number % 3], delta_bases=0
    ),
    "promote": lambda tree, one, other, number: promote(
        tree, one, other, DEVICE, phase=PHASES[number % 3], delta_bases=0
    ),
    "tag": lambda tree, one, _, number: tag_image(tree, one, DEVICE, str(number), delta_bases=number % 2),
    "expire": lambda tree, one, _, number: expire_versions(tree, one, 1 + number % 3),
    "alias": lambda tree, one, other, _: alias_channel(tree, one, other),
    "redirect": lambda tree, one, other, _: redirect_channel(tree, one, other),
    "redirect the device": lambda tree, one, other, _: redirect_channel(tree, one, other, device=DEVICE),
    "rename": lambda tree, one, other, _: rename_channel(tree, one, other),
    "remove": lambda tree, one, *_: remove_channel(tree, one),
    "put an alias in its place": lambda tree, one, other, _: (
        remove_channel(tree, one),
        alias_channel(tree, one, other),
    ),
    "put a redirect in its place": lambda tree, one, other, _: (
        remove_channel(tree, one),
        redirect_channel(tree, one, other),
    ),
}
WHAT = [*["release"] * 5, "phase", *OPERATIONS, "redirect the device", "put a redirect in its place"]
operations = st.tuples(st.sampled_from(WHAT), st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 59))


@settings(max_examples=examples(80))
@given(st.lists(operations, min_size=3, max_size=12))
def test_whatever_is_done_no_device_goes_back_or_is_left_behind(done: list[tuple[str, str, str, int]]) -> None:
    field = Field()
    for channel in [*OWN, *OWN, *OWN, "stable"]:
        field.release(channel, is_zstd=False, gaps=7)
    for operation in done:
        field.enrol()
        what, one, other, number = operation
        with suppress(CoreimageError):
            if what == "release":
                field.release(one, is_zstd=number % 5 == 0, gaps=number)
            else:
                OPERATIONS[what](field.tree, one, other, number)
        field.update()
