"""Operations on channels over real trees: what each leaves is what our own client reads and `verify` finds whole."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coreimage.client import Image, Session
from coreimage.client.upgrade import find_path
from coreimage.errors import ConflictError, CoreimageError, NotFoundError, UsageError
from coreimage.http import Downloader
from coreimage.signing import GnupgSigner, Role, make_keyring
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import (
    Change,
    ChannelTree,
    Expired,
    alias_channel,
    collect_orphans,
    create_channel,
    create_device,
    expire_versions,
    hide_channel,
    orphans,
    promote,
    publish_keyrings,
    redirect_channel,
    release_candidate,
    remove_channel,
    remove_device,
    rename_channel,
    renew_channels,
    roll_back,
    set_device_keyring,
    set_phase,
    show_channel,
    tag_image,
    verify_store,
)
from coreimage.system_image.payloads.version_tarball import read_identity
from coreimage.system_image.web import client_errors, open_server
from tests.harness.strict_client import Device as OldDevice
from tests.harness.strict_client import update
from tests.harness.trees import CHANNEL, DEVICE, NOW, RememberingSigner, imported, now, released
from tests.harness.verified import require_verified

STABLE, NEXT = "debian-core/13/stable", "debian-core/14/edge"


@pytest.fixture(scope="module")
def remembering(signer: GnupgSigner) -> RememberingSigner:
    return RememberingSigner(signer)


class Tree:
    """A store with one released channel, and short words for what tests do with it."""

    def __init__(self, store: DirectoryStore, www: Path, signer: RememberingSigner) -> None:
        self.store, self.www, self.signer = store, www, signer
        publish_keyrings(self.tree)

    @property
    def tree(self) -> ChannelTree:
        return ChannelTree(self.store, self.signer, now)

    @property
    def later(self) -> ChannelTree:
        """The same when the grace of orphans is over."""
        return replace(self.tree, now=_far_later)

    def do(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What is published then verifies, whatever was done."""
        done = operation(self.tree, *arguments, **options)
        top = make_keyring("archive-master", self.signer.public_key(Role.ARCHIVE_MASTER))
        require_verified(self.www, top, NOW.timestamp())
        return done

    def release(self, build_id: str, text: bytes, **options: Any) -> int:
        return released(self.store, self.signer, build_id, text, **options)

    def device_of_2015(self, build: int, channel: str = CHANNEL) -> int:
        """Where a client of 2015 goes from `build`."""
        device = OldDevice(make_keyring("archive-master", self.signer.public_key(Role.ARCHIVE_MASTER)), channel, DEVICE)
        device.build, device.percentage = build, 0
        found = update(device, lambda path: _content(self.www / path), NOW.timestamp())
        return found.images[-1]["version"] if found else build

    def session(self, **options: Any) -> Session:
        archive_master = make_keyring("archive-master", self.signer.public_key(Role.ARCHIVE_MASTER))
        options = {"now": NOW.timestamp, **options}
        return open_server(self.www.as_uri(), archive_master, fetch=Downloader(), **options)

    def images(self, channel: str, device: str = DEVICE) -> tuple[Image, ...]:
        with client_errors():
            return self.session().index(channel, device).images

    def versions(self, channel: str, device: str = DEVICE) -> list[int]:
        return [image.version for image in self.images(channel, device) if image.type == "full"]

    def content(self, channel: str, version: int) -> list[str]:
        """The digests of the payloads of a full version."""
        (image,) = [each for each in self.images(channel) if (each.version, each.type) == (version, "full")]
        return [file.sha256 for file in image.files[:-1]]

    def identity(self, channel: str, version: int, device: str = DEVICE) -> dict[str, str]:
        """What a device says of itself once it has this version."""
        (image,) = [each for each in self.images(channel, device) if (each.version, each.type) == (version, "full")]
        with (self.www / image.files[-1].path.lstrip("/")).open("rb") as file:
            return read_identity(file, "version")[0]

    def raw_index(self, channel: str, device: str = DEVICE) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.www / channel / device / "index.json").read_bytes())
        return found

    def channels(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.www / "channels.json").read_bytes())
        return found


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


@pytest.fixture
def made(store: DirectoryStore, tree: Path, remembering: RememberingSigner) -> Iterator[Tree]:
    """Two versions of CHANNEL. Whatever a test does, nothing is refused afterwards, and nothing is left to heal."""
    made = Tree(store, tree, remembering)
    made.release("20261123", b"one")
    made.release("20261124", b"two")
    yield made
    archive_master = make_keyring("archive-master", remembering.public_key(Role.ARCHIVE_MASTER))
    found = verify_store(store, archive_master, now=NOW.timestamp)
    assert [finding for finding in found.findings if finding.severity == "error"] == []


def test_channels_are_made_hidden_shown_and_removed(made: Tree) -> None:
    assert made.do(create_channel, STABLE) == Change(changed=True, channel=STABLE)
    assert made.do(create_channel, STABLE) == Change(changed=False, channel=STABLE)
    assert made.channels()[STABLE] == {"devices": {}}
    assert made.do(hide_channel, STABLE).changed
    assert made.channels()[STABLE] == {"devices": {}, "hidden": True}
    assert made.do(show_channel, STABLE).changed
    assert not made.do(show_channel, STABLE).changed
    assert made.channels()[STABLE] == {"devices": {}}
    assert made.do(remove_channel, STABLE).changed
    assert not made.do(remove_channel, STABLE).changed
    assert STABLE not in made.channels()


@pytest.mark.parametrize(
    "name",
    ["pool", "gpg/x", "a b", "a%b", "../up", "a//b", "", "a\nb", f"{CHANNEL}/inner", "debian-core/13", "debian-core"],
)
def test_names_that_cannot_be(made: Tree, name: str) -> None:
    with pytest.raises(UsageError):
        made.do(create_channel, name)


def test_unknown_channels_name_the_near_miss(made: Tree) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: made.do(hide_channel, "debian-core/13/egde"),
        lambda: made.do(alias_channel, "x", "debian-core/13/egde"),
        lambda: made.do(promote, CHANNEL, "debian-core/13/egde", DEVICE),
        lambda: made.do(promote, "debian-core/13/egde", CHANNEL, DEVICE),
        lambda: made.do(create_device, "debian-core/13/egde", DEVICE),
    ]
    for attempt in attempts:
        with pytest.raises(NotFoundError, match="did you mean"):
            attempt()


def test_devices_come_and_go_and_their_numbers_never_return(made: Tree) -> None:
    assert made.do(create_device, CHANNEL, "pc_amd64").changed
    assert not made.do(create_device, CHANNEL, "pc_amd64").changed
    assert made.images(CHANNEL, "pc_amd64") == ()
    assert made.do(remove_device, CHANNEL, "pc_amd64").changed
    assert made.do(remove_device, CHANNEL, DEVICE).changed
    assert not made.do(remove_device, CHANNEL, DEVICE).changed
    assert made.release("20261124", b"two") == 3
    made.do(remove_channel, CHANNEL)
    assert made.release("20261124", b"two") == 4
    for bad in ("a/b", "", "..", "a b", "-x"):
        with pytest.raises(UsageError):
            made.do(create_device, CHANNEL, bad)


def test_an_alias_has_what_its_target_has(made: Tree) -> None:
    assert made.do(alias_channel, "stable", CHANNEL).changed
    assert not made.do(alias_channel, "stable", CHANNEL).changed
    assert made.versions("stable") == [1, 2]
    said = made.identity("stable", 2)
    assert (said["channel"], said["channel_target"], said["build_number"]) == ("stable", CHANNEL, "2")
    assert made.content("stable", 2) == made.content(CHANNEL, 2)
    made.release("20261125", b"three")
    made.do(set_phase, CHANNEL, DEVICE, 30)
    assert made.versions("stable") == [1, 2, 3]
    assert made.raw_index("stable")["images"][-1]["phased-percentage"] == 30
    made.do(create_device, CHANNEL, "pc_amd64")
    assert set(made.channels()["stable"]["devices"]) == {DEVICE, "pc_amd64"}
    made.do(remove_device, CHANNEL, "pc_amd64")
    assert set(made.channels()["stable"]["devices"]) == {DEVICE}


def test_an_alias_that_gets_another_target_has_its_versions_whatever_their_numbers(made: Tree) -> None:
    made.do(create_channel, NEXT)
    made.do(promote, CHANNEL, NEXT, DEVICE, version=2)
    made.do(promote, CHANNEL, NEXT, DEVICE, version=1)
    assert made.versions(NEXT) == made.versions(CHANNEL) == [1, 2]
    made.do(alias_channel, "stable", CHANNEL)
    assert made.content("stable", 1) == made.content(CHANNEL, 1)
    assert made.do(alias_channel, "stable", NEXT).changed
    assert made.versions("stable") == [1, 2]
    assert made.content("stable", 1) == made.content(CHANNEL, 2)
    assert {made.identity("stable", version)["channel_target"] for version in (1, 2)} == {NEXT}


def test_what_others_follow_is_not_removed_nor_written_to(made: Tree) -> None:
    made.do(alias_channel, "stable", CHANNEL)
    with pytest.raises(ConflictError, match="stable"):
        made.do(remove_channel, CHANNEL)
    attempts: list[Callable[[], object]] = [
        lambda: made.do(promote, CHANNEL, "stable", DEVICE),
        lambda: made.do(set_phase, "stable", DEVICE, 5),
        lambda: made.do(tag_image, "stable", DEVICE, "x"),
        lambda: made.do(create_device, "stable", "pc_amd64"),
        lambda: made.do(alias_channel, "more", "stable"),
        lambda: made.do(create_channel, "stable"),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError, match="alias"):
            attempt()
    with pytest.raises(ConflictError, match="of its own"):
        made.do(alias_channel, CHANNEL, "stable2") if made.do(create_channel, "stable2") else None


def test_a_redirect_is_a_copy_that_follows_and_goes_with_its_target(made: Tree) -> None:
    made.do(create_channel, NEXT)
    made.do(promote, CHANNEL, NEXT, DEVICE)
    assert made.do(redirect_channel, "old", NEXT).changed
    assert not made.do(redirect_channel, "old", NEXT).changed
    entry = made.channels()["old"]
    assert (entry["redirect"], entry["hidden"]) == (NEXT, True)
    assert entry["devices"] == made.channels()[NEXT]["devices"]
    made.do(roll_back, NEXT, DEVICE, 1) if made.versions(NEXT) != [1] else made.do(tag_image, NEXT, DEVICE, "x")
    assert made.channels()["old"]["devices"] == made.channels()[NEXT]["devices"]
    assert made.images("old") == made.images(NEXT)
    assert made.identity("old", 2)["channel"] == NEXT
    assert not (made.www / "old").exists()
    with pytest.raises(UsageError, match="hidden"):
        made.do(show_channel, "old")
    made.do(remove_channel, NEXT)
    assert "old" not in made.channels()


def test_one_device_is_redirected(made: Tree) -> None:
    made.do(create_channel, NEXT)
    made.do(create_device, NEXT, "pc_amd64")
    assert made.do(redirect_channel, NEXT, CHANNEL, device=DEVICE).changed
    assert made.versions(NEXT) == [1, 2]
    assert made.release("20261125", b"three") == 3
    assert made.versions(NEXT) == [1, 2, 3]
    with pytest.raises(UsageError, match="redirected"):
        made.do(promote, CHANNEL, NEXT, DEVICE)
    made.do(remove_device, CHANNEL, DEVICE)
    assert set(made.channels()[NEXT]["devices"]) == {"pc_amd64"}


@pytest.mark.parametrize("leave_redirect", [True, False])
def test_a_renamed_channel_is_another_channel_whose_devices_find_it(made: Tree, leave_redirect: bool) -> None:
    made.do(alias_channel, "stable", CHANNEL)
    before = made.content(CHANNEL, 2)
    new = "debian-core/13/daily"
    assert made.do(rename_channel, CHANNEL, new, leave_redirect=leave_redirect).changed
    assert not made.do(rename_channel, CHANNEL, new, leave_redirect=leave_redirect).changed
    assert made.versions(new) == [1, 2]
    assert made.content(new, 2) == before
    assert made.identity(new, 2)["channel"] == new
    assert made.channels()["stable"]["alias"] == new
    assert made.identity("stable", 2)["channel_target"] == new
    assert (CHANNEL in made.channels()) == leave_redirect
    if leave_redirect:
        assert made.images(CHANNEL) == made.images(new)
    with pytest.raises((NotFoundError, UsageError)):
        made.do(rename_channel, CHANNEL, "other")


def test_promotion_moves_the_same_bytes_once(made: Tree) -> None:
    made.do(create_channel, STABLE)
    assert made.do(promote, CHANNEL, STABLE, DEVICE, version=1, phase=20).version == 1
    assert made.content(STABLE, 1) == made.content(CHANNEL, 1)
    (image,) = made.raw_index(STABLE)["images"]
    assert image["source"] == {"channel": CHANNEL, "version": 1}
    assert image["phased-percentage"] == 20
    assert image["version_detail"] == "ubuntu=20261123,raw-device=20261123,version=1"
    again = made.do(promote, CHANNEL, STABLE, DEVICE, version=1)
    assert (again.changed, again.version) == (False, 1)
    assert made.do(promote, CHANNEL, STABLE, DEVICE, version=1, phase=100).changed
    assert made.do(promote, CHANNEL, STABLE, DEVICE).version == 2
    assert made.identity(STABLE, 2) == {**made.identity(CHANNEL, 2), "channel": STABLE}
    with pytest.raises(NotFoundError, match=r"its versions: 1, 2"):
        made.do(promote, CHANNEL, STABLE, DEVICE, version=7)
    with pytest.raises(NotFoundError, match=f"its devices: {DEVICE}"):
        made.do(promote, CHANNEL, STABLE, "pc_amd64")


def test_rolling_back_is_a_new_version(made: Tree) -> None:
    assert made.do(roll_back, CHANNEL, DEVICE, 1).version == 3
    assert made.content(CHANNEL, 3) == made.content(CHANNEL, 1)
    assert not made.do(roll_back, CHANNEL, DEVICE, 1).changed
    assert made.identity(CHANNEL, 3)["version_detail"] == "ubuntu=20261123,raw-device=20261123,version=3"


def test_a_tag_is_one_small_step_from_the_same_content_only(made: Tree) -> None:
    made.do(set_phase, CHANNEL, DEVICE, 40)
    assert made.do(tag_image, CHANNEL, DEVICE, "13.1").version == 3
    assert not made.do(tag_image, CHANNEL, DEVICE, "13.1").changed
    full, delta = made.raw_index(CHANNEL)["images"][-2:]
    assert full["version_detail"] == "ubuntu=20261124,raw-device=20261123,tag=13.1,version=3", (
        "the device's part is that of the first build still"
    )
    made.do(create_channel, STABLE)
    made.do(promote, CHANNEL, STABLE, DEVICE)
    assert made.identity(STABLE, 1)["version_detail"] == "ubuntu=20261124,raw-device=20261123,tag=13.1,version=1"
    assert made.do(tag_image, STABLE, DEVICE, "stable-1").version == 2
    assert not made.do(promote, CHANNEL, STABLE, DEVICE).changed, "it has another tag since"
    assert (full["phased-percentage"], delta["phased-percentage"]) == (40, 40)
    assert (delta["base"], delta["version"], len(delta["files"])) == (2, 3, 1)
    assert [image.get("base") for image in made.raw_index(CHANNEL)["images"] if image["type"] == "delta"] == [1, 2]
    assert made.do(tag_image, CHANNEL, DEVICE, "13.2").version == 4
    assert made.identity(CHANNEL, 4)["version_detail"].count("tag=") == 1
    assert made.do(tag_image, CHANNEL, DEVICE, "").version == 5
    assert "tag=" not in made.identity(CHANNEL, 5)["version_detail"]
    for bad in ("a,b", "a=b", "50%", "a\nb"):
        with pytest.raises(UsageError):
            made.do(tag_image, CHANNEL, DEVICE, bad)


def legacy_deltas(made: Tree, channel: str) -> list[tuple[int, int]]:
    """The deltas that clients of 2015 see."""
    images = made.raw_index(channel)["images"]
    return [(image["base"], image["version"]) for image in images if image["type"] == "delta"]


def test_a_tag_leads_on_from_every_base_with_all_that_has_changed(made: Tree) -> None:
    """The original's other bases got nothing but the new number. Those of 2015 see the way from the newest base."""
    made.do(tag_image, CHANNEL, DEVICE, "13.1", delta_bases=2)
    assert legacy_deltas(made, CHANNEL) == [(1, 2), (2, 3)]
    files = {(image.base, image.version): image.payloads for image in made.images(CHANNEL) if image.type == "delta"}
    assert files.keys() == {(1, 2), (2, 3), (1, 3)}
    assert files[2, 3] == ()
    assert files[1, 3] != ()


def test_promotions_and_roll_backs_make_deltas_of_what_the_channel_had(made: Tree) -> None:
    made.do(create_channel, STABLE)
    for version in (1, 2):
        made.do(promote, CHANNEL, STABLE, DEVICE, version=version)
    made.do(roll_back, STABLE, DEVICE, 1, delta_bases=2)
    assert legacy_deltas(made, STABLE) == [(1, 2), (2, 3)]
    (first, *_) = [image for image in made.raw_index(STABLE)["images"] if image["type"] == "delta"]
    (imported,) = [image for image in made.raw_index(CHANNEL)["images"] if image["type"] == "delta"]
    assert first["files"][:-1] == imported["files"][:-1]
    (same,) = [image for image in made.images(STABLE) if (image.base, image.version) == (1, 3)]
    assert (same.payloads, same.form) == ((), "own")


def test_what_old_appliers_cannot_unpack_is_kept_from_them(made: Tree) -> None:
    """They unpack after they have formatted: a device that took a zstd payload would be left without a system."""
    made.release("20261125", b"three" * 500, compression="zstd")
    made.release("20261126", b"four" * 500, compression="zstd")
    assert made.do(tag_image, CHANNEL, DEVICE, "13.1").version == 5
    index = made.raw_index(CHANNEL)
    assert [image["version"] for image in index["images"] if image["type"] == "full"] == [1, 2]
    assert [image["version"] for image in index["compact"] if image["type"] == "full"] == [3, 4, 5]
    assert (made.device_of_2015(0), made.device_of_2015(1), made.device_of_2015(2)) == (0, 2, 2), (
        "one that counts as without a version may have newer content than version 2"
    )
    names = [file.name.partition(".")[2] for file in find_path(made.images(CHANNEL), 0).images[0].files]
    assert names == ["tar.zst", "tar.zst", "tar.xz"]
    assert [image.version for image in find_path(made.images(CHANNEL), 2).images][-1] == 5
    assert [len(image.files) for image in find_path(made.images(CHANNEL), 4).images] == [1]
    made.do(create_channel, STABLE)
    made.do(promote, CHANNEL, STABLE, DEVICE)
    assert (made.versions(STABLE), made.device_of_2015(0, STABLE)) == ([1], 0)
    assert made.release("20261127", b"five") == 6
    assert made.device_of_2015(2) == 6
    assert made.do(collect_orphans) == ()


def test_deltas_lead_from_as_many_versions_as_the_channel_says(made: Tree) -> None:
    made.release("20261125", b"three", delta_bases=2)
    made.release("20261126", b"four", delta_bases=0)
    ways = [(image.base, image.version) for image in made.images(CHANNEL) if image.type == "delta"]
    assert sorted(set(ways)) == [(1, 2), (1, 3), (2, 3)]


def test_no_delta_is_pooled_that_is_larger_than_the_full_image(made: Tree) -> None:
    """One of 2015 names all that is gone."""
    made.release("20261125", b"three", names=[f"usr/{hashlib.sha256(b'%d' % at).hexdigest()}" for at in range(300)])
    before = {path.name for path in (made.www / "pool").iterdir()}
    made.release("20261126", b"four")
    fresh = {path.name for path in (made.www / "pool").iterdir()} - before
    assert fresh
    assert not [name for name in fresh if name.endswith(".delta.tar.xz")]
    assert [image.form for image in made.images(CHANNEL) if image.base == 3] == ["compact"]


def test_only_the_newest_version_is_phased(made: Tree) -> None:
    assert made.do(set_phase, CHANNEL, DEVICE, 0, version=2).changed
    assert not made.do(set_phase, CHANNEL, DEVICE, 0).changed
    assert [image.get("phased-percentage") for image in made.raw_index(CHANNEL)["images"]] == [None, 0, 0]
    made.release("20261125", b"three")
    assert [image.get("phased-percentage") for image in made.raw_index(CHANNEL)["images"]] == [
        *(None, 0, 0),
        *(None, None),
    ], "what was withdrawn stays so"
    with pytest.raises(ConflictError, match="not the newest"):
        made.do(set_phase, CHANNEL, DEVICE, 50, version=2)
    made.do(set_phase, CHANNEL, DEVICE, 50)
    assert made.do(set_phase, CHANNEL, DEVICE, 100).changed
    assert "phased-percentage" not in made.raw_index(CHANNEL)["images"][-1]
    for bad in (-1, 101):
        with pytest.raises(UsageError):
            made.do(set_phase, CHANNEL, DEVICE, bad)


def test_a_phased_version_is_released_once(made: Tree) -> None:
    made.do(set_phase, CHANNEL, DEVICE, 30)
    assert made.release("20261124", b"two") == 2
    assert made.raw_index(CHANNEL)["images"][-1]["phased-percentage"] == 30


def test_a_device_keyring_must_be_signed(made: Tree) -> None:
    keyring = make_keyring("device-signing", made.signer.public_key(Role.CDIMAGE), model=DEVICE)
    path = made.www / "keyrings/maker.tar.xz"
    path.parent.mkdir()
    with pytest.raises(NotFoundError):
        made.do(set_device_keyring, CHANNEL, DEVICE, "keyrings/maker.tar.xz")
    path.write_bytes(keyring)
    Path(f"{path}.asc").write_bytes(made.signer.detached(Role.CDIMAGE, keyring))
    with pytest.raises(CoreimageError):
        made.do(set_device_keyring, CHANNEL, DEVICE, "keyrings/maker.tar.xz")
    Path(f"{path}.asc").write_bytes(made.signer.detached(Role.IMAGE_SIGNING, keyring))
    assert made.do(set_device_keyring, CHANNEL, DEVICE, "keyrings/maker.tar.xz").changed
    assert made.channels()[CHANNEL]["devices"][DEVICE]["keyring"] == {
        "path": "/keyrings/maker.tar.xz",
        "signature": "/keyrings/maker.tar.xz.asc",
    }
    made.release("20261125", b"three")
    assert "keyring" in made.channels()[CHANNEL]["devices"][DEVICE]
    assert made.do(set_device_keyring, CHANNEL, DEVICE, None).changed


def _far_later() -> datetime:
    return NOW + timedelta(days=30)


def test_retention_keeps_the_newest_and_orphans_go_after_a_while(made: Tree) -> None:
    made.release("20261125", b"three")
    made.do(tag_image, CHANNEL, DEVICE, "x")
    waiting = json.loads((made.www / "channels.json").read_bytes())
    assert made.do(expire_versions, CHANNEL, 0) == ()
    gone = Expired(channel=CHANNEL, device=DEVICE, versions=(1, 2))
    assert made.do(expire_versions, CHANNEL, 2, dry_run=True) == (gone,)
    assert made.versions(CHANNEL) == [1, 2, 3, 4]
    assert made.do(expire_versions, CHANNEL, 2) == (gone,)
    assert made.do(expire_versions, CHANNEL, 2) == ()
    assert made.versions(CHANNEL) == [3, 4]
    assert [image.base for image in made.images(CHANNEL) if image.type == "delta"] == [3]
    assert waiting != made.channels()
    assert made.do(orphans) == ()
    (made.www / "robots.txt").write_text("User-agent: *\n")
    removed = [orphan.key for orphan in collect_orphans(made.later)]
    assert any("pool/ubuntu-" in key for key in removed)
    assert not any("/gpg/" in key or "robots.txt" in key for key in removed)
    assert collect_orphans(made.later) == ()
    assert made.release("20261126", b"four") == 5
    with pytest.raises(UsageError):
        made.do(expire_versions, CHANNEL, -1)


def test_the_end_of_the_channels_is_moved_in_time(made: Tree) -> None:
    first = made.session().seen()
    assert not made.do(renew_channels).changed
    assert renew_channels(made.later).changed
    assert made.session(seen=first).seen().number > first.number


def test_a_tree_whose_channels_were_lost_has_no_orphans(made: Tree) -> None:
    channels = made.www / "channels.json.gpg"
    kept = channels.read_bytes()
    channels.unlink()
    assert orphans(made.later) == ()
    channels.write_bytes(kept)


def test_what_a_waiting_candidate_names_is_no_orphan(made: Tree) -> None:
    candidate = imported(made.store, made.signer, "20261125", b"three")
    assert collect_orphans(made.later), "those of released candidates are"
    assert made.do(release_candidate, candidate).version == 3


@pytest.mark.parametrize(
    "module", ["coreimage.system_image.web", "coreimage.operations.tree_source", "coreimage.cli.commands.query"]
)
def test_who_reads_channels_loads_neither_deltas_nor_payloads(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in sys.modules if name.startswith('coreimage.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert module in loaded
    heavy = ("coreimage.deltas", "coreimage.system_image.payloads", "coreimage.system_image.importer")
    assert [name for name in loaded if name.startswith(heavy)] == []
