"""The walk over a simulated tree: what is whole is silent, each thing that is wrong is named, and the walk goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coreimage.client import Channel, Channels, DeviceEntry, DownloadError
from coreimage.client.documents import KeyringPaths
from coreimage.client.fetch import keyring_signature_path
from coreimage.errors import HostError, VerificationError
from coreimage.model import Server
from coreimage.signing import make_keyring
from coreimage.system_image.payloads.version_tarball import version_tarball
from coreimage.system_image.verify.findings import REPAIR, RESTORE, Collector, Findings, WaitingCandidate
from coreimage.system_image.verify.walk import walk_tree
from tests.unit.client.simulator import DAY_S, DEVICE, EDGE, NOW, STABLE, TagVerify, Tree

PAYLOAD = "pool/ubuntu-full-0-2.tar.xz"
VERSION = f"{EDGE}/{DEVICE}/version-2.tar.xz"
PLAIN = f"{EDGE}/{DEVICE}/index.json"


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.fixture
def walk(tree: Tree, tmp_path: Path) -> Callable[..., Findings]:
    def walk(*, listed: bool = True, legacy: bool = False) -> Findings:
        names = list(tree.files) if listed else None
        top, now = tree.archive_master, tree.now
        return walk_tree(tree, TagVerify(), top, names=names, now=now, folder=tmp_path, legacy=legacy)

    return walk


def index_path(tree: Tree, channel: str = EDGE) -> str:
    return tree.channels[channel].devices[DEVICE].index.lstrip("/")


def publish_index(tree: Tree, **changes: Any) -> None:
    """EDGE's index, changed, rightly signed and named by the channels."""
    index = replace(tree.indexes[EDGE, DEVICE], **changes)
    tree.set_device(EDGE, DEVICE, tree.put_index(EDGE, DEVICE, index))
    tree.put_channels()


def test_a_whole_tree_is_silent(tree: Tree, walk: Callable[..., Findings]) -> None:
    tree.blacklist("stranger")
    found = walk()
    assert (found.findings, found.orphans, found.candidates) == ((), (), ())
    second_signatures = {name for name in tree.files if re.search(r"-[0-9a-f]{64}\.tar\.xz\.asc", name)}
    assert found.checked == len(tree.files) - len(second_signatures)
    assert walk(listed=False) == found


def _blacklisted_index(tree: Tree) -> None:
    tree.blacklist("image-signing-2")
    tree.put(index_path(tree), tree.files[index_path(tree)], "image-signing-2")


def _other_version_file(tree: Tree) -> None:
    """Signed, and with the digest that the index says: only its content is another channel's."""
    tree.indexes[EDGE, DEVICE] = replace(tree.indexes[EDGE, DEVICE], images=())
    tree.add_version("debian-core/13/other", 2)
    image = tree.indexes.pop(("debian-core/13/other", DEVICE)).images[0]
    other = image.files[1]
    for end in ("", ".asc"):
        tree.files[f"{VERSION}{end}"] = tree.files[f"{other.path.lstrip('/')}{end}"]
    moved = replace(other, path=f"/{VERSION}", signature=f"/{VERSION}.asc")
    publish_index(tree, images=(replace(image, files=(image.files[0], moved)),))


WRONG: dict[str, tuple[Callable[[Tree], object], str, str]] = {
    "a file of other content, rightly signed": (
        lambda tree: tree.put(PAYLOAD, b"payload full 3"), PAYLOAD, "digest of the index"),
    "a file of another size": (lambda tree: tree.put(PAYLOAD, b"more than that"[:9]), PAYLOAD, "9 bytes"),
    "a file that somebody else signed": (
        lambda tree: tree.put(PAYLOAD, tree.files[PAYLOAD], "stranger"), PAYLOAD, "unknown key"),
    "a file that is gone": (lambda tree: tree.files.pop(PAYLOAD), PAYLOAD, "missing"),
    "a signature that is gone": (lambda tree: tree.files.pop(f"{PAYLOAD}.asc"), f"{PAYLOAD}.asc", "missing"),
    "a sidecar that is not signed": (
        lambda tree: tree.put("pool/ubuntu-full-0-2.json", b"{}", "stranger"), "pool/ubuntu-full-0-2.json", "unknown"),
    "channels of the kind of a candidate": (
        lambda tree: tree.put_channels(kind="candidate", expires=None), "channels.json.gpg", "'candidate'"),
    "channels that have expired": (
        lambda tree: tree.put_channels(expires=NOW), "channels.json.gpg", "expired on 2027-01-15"),
    "channels by somebody else": (
        lambda tree: tree.files.update({"channels.json.gpg": tree.keys["stranger"].inline(b"{}")}),
        "channels.json.gpg", "unknown key"),
    "channels.json of another state": (
        lambda tree: tree.put("channels.json", Channels({}).to_bytes()), "channels.json", "channels.json.gpg says"),
    "channels.json without its signature": (
        lambda tree: tree.files.update({"channels.json.asc": b"torn"}), "channels.json", "not belong together"),
    "channels.json that is gone": (lambda tree: tree.files.pop("channels.json"), "channels.json", "missing"),
    "index.json of another state": (lambda tree: tree.put(PLAIN, b"{}"), PLAIN, "does not say what"),
    "index.json without its signature": (
        lambda tree: tree.files.update({f"{PLAIN}.asc": b"torn"}), PLAIN, "not belong together"),
    "an image-signing keyring with a torn signature": (
        lambda tree: tree.files.update({"gpg/image-signing.tar.xz.asc": b"torn"}),
        "gpg/image-signing.tar.xz", "not belong together"),
    "an image-master keyring by somebody else": (
        lambda tree: tree.put_keyring("image-master", b"", "stranger"), "gpg/image-master.tar.xz", "unknown key"),
    "an archive-master keyring that is not the given one": (
        lambda tree: tree.put_keyring("archive-master", b"", "stranger"), "gpg/archive-master.tar.xz", "unknown key"),
    "an archive-master keyring that is gone": (
        lambda tree: tree.files.pop("gpg/archive-master.tar.xz"), "gpg/archive-master.tar.xz", "missing"),
    "a blacklist that cannot be read": (
        lambda tree: tree.put_keyring("blacklist", b"x", "image-master"), "gpg/image-signing.tar.xz", "OpenPGP key"),
    "an index of another device": (
        lambda tree: publish_index(tree, device="pi_arm64"), "index", "not of debian-core/13/edge for generic_amd64"),
    "an index of another channel": (lambda tree: publish_index(tree, channel=STABLE), "index", "of debian-core/13/s"),
    "an index by a blacklisted key": (
        _blacklisted_index, "index", "blacklisted"),
    "versions twice": (
        lambda tree: publish_index(tree, images=(tree.image(EDGE, 2), tree.image(EDGE, 2))), "index", "in order"),
    "an image without its version file": (
        lambda tree: publish_index(tree, images=(replace(i := tree.image(EDGE, 2), files=i.files[:1]),)),
        "index", "image 2 has no file that says its version"),
    "a delta to an older version": (
        lambda tree: publish_index(
            tree, images=(*tree.indexes[EDGE, DEVICE].images, tree.image(EDGE, 2, base=2))),
        "index", "a delta leads from 2 to 2"),
    "a delta twice": (
        lambda tree: publish_index(
            tree, images=(*tree.indexes[EDGE, DEVICE].images, *(tree.image(EDGE, 2, base=1) for _ in range(2)))),
        "index", "two deltas"),
    "a version file of another channel": (
        _other_version_file, VERSION, "channel is 'debian-core/13/other'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what: str, tree: Tree, walk: Callable[..., Findings]) -> None:
    spoil, where, problem = WRONG[what]
    spoil(tree)
    named = index_path(tree) if where == "index" else where
    assert [(finding.where, bool(re.search(problem, finding.problem))) for finding in walk().errors] == [(named, True)]


def test_signing_anew_does_not_make_a_candidate_the_channels(tree: Tree, walk: Callable[..., Findings]) -> None:
    tree.put_channels(kind="candidate", expires=None)
    assert [finding.resolution for finding in walk().errors] == [RESTORE]
    tree.put_channels(expires=NOW)
    assert "keys re-sign" in walk().errors[0].resolution


def test_all_that_is_wrong_is_named_at_once(tree: Tree, walk: Callable[..., Findings]) -> None:
    tree.put(PAYLOAD, b"payload full 3")
    tree.files[f"{STABLE}/{DEVICE}/version-1.tar.xz"] = b"x"
    tree.put(PLAIN, b"{}")
    tree.put_channels(expires=NOW)
    tree.put("channels.json", b"{}")
    tree.files["gpg/image-master.tar.xz.asc"] = b"torn"
    assert [finding.where for finding in walk().errors] == [
        "gpg/image-master.tar.xz", "channels.json.gpg", "channels.json", PLAIN, PAYLOAD,
        f"{STABLE}/{DEVICE}/version-1.tar.xz",
    ]  # fmt: skip


def test_pairs_that_are_torn_can_be_repaired(tree: Tree, walk: Callable[..., Findings]) -> None:
    tree.put(PLAIN, b"{}")
    tree.put("channels.json", b"{}")
    tree.files["gpg/image-master.tar.xz.asc"] = b"torn"
    assert {finding.resolution for finding in walk().errors} == {REPAIR}


def test_a_blacklist_without_any_signature_is_no_absent_one(tree: Tree, walk: Callable[..., Findings]) -> None:
    tree.blacklist("stranger")
    tarball = tree.files["gpg/blacklist.tar.xz"]
    del tree.files["gpg/blacklist.tar.xz.asc"], tree.files[keyring_signature_path("blacklist", tarball)]
    assert [(each.where, each.problem) for each in walk().errors] == [
        ("gpg/blacklist.tar.xz", "its signature is missing")
    ]


@pytest.mark.parametrize(("days", "warned"), [(89, True), (91, False)])
def test_keyrings_that_expire_soon_are_warned_of(
    days: int, warned: bool, tree: Tree, walk: Callable[..., Findings]
) -> None:
    expiry = int(NOW + days * DAY_S)
    tree.put_keyring("image-signing", tree.both("image-signing"), "image-master", expiry=expiry)
    tree.put("/keys/device.tar.xz", make_keyring("device-signing", tree.both("device-signing"), expiry=expiry))
    entry = replace(
        tree.channels[EDGE].devices[DEVICE], keyring=KeyringPaths("/keys/device.tar.xz", "/keys/device.tar.xz.asc")
    )
    tree.set_device(EDGE, DEVICE, entry)
    tree.put_channels()
    found = walk()
    assert [each.where for each in found.findings] == ["gpg/image-signing.tar.xz", "keys/device.tar.xz"] * warned
    assert found.errors == ()


@pytest.mark.parametrize(("days", "warned"), [(29, True), (31, False)])
def test_channels_that_expire_soon_are_warned_of(
    days: int, warned: bool, tree: Tree, walk: Callable[..., Findings]
) -> None:
    tree.put_channels(expires=NOW + days * DAY_S)
    found = walk()
    assert [each.where for each in found.findings] == ["channels.json.gpg"] * warned
    assert found.errors == ()


def test_an_expired_keyring_ends_the_walk(tree: Tree, walk: Callable[..., Findings]) -> None:
    tree.put_keyring("image-signing", tree.both("image-signing"), "image-master", expiry=NOW)
    assert [(each.where, "expired" in each.problem) for each in walk().errors] == [("gpg/image-signing.tar.xz", True)]


def test_a_devices_own_key_is_followed(tree: Tree, walk: Callable[..., Findings]) -> None:
    tree.put("/keys/device.tar.xz", make_keyring("device-signing", tree.both("device-signing"), model=DEVICE))
    keyring = KeyringPaths("/keys/device.tar.xz", "/keys/device.tar.xz.asc")
    tree.set_device(EDGE, DEVICE, replace(tree.channels[EDGE].devices[DEVICE], keyring=keyring))
    tree.put_channels()
    tree.put(index_path(tree), tree.files[index_path(tree)], "device-signing")
    assert walk().findings == ()
    tree.put("/keys/device.tar.xz", tree.files["keys/device.tar.xz"], "stranger")
    assert [each.where for each in walk().errors] == ["keys/device.tar.xz"]


def test_aliases_and_redirects_are_followed(tree: Tree, walk: Callable[..., Findings]) -> None:
    index = replace(
        tree.indexes[STABLE, DEVICE],
        channel="alias",
        channel_target=STABLE,
        images=(tree.image("alias", 1, target=STABLE),),
    )
    tree.channels["alias"] = Channel({DEVICE: tree.put_index("alias", DEVICE, index)}, alias=STABLE)
    tree.channels["old"] = replace(tree.channels[STABLE], redirect=STABLE, hidden=True)
    tree.put_channels()
    assert walk().findings == ()
    tree.channels["old"] = replace(tree.channels["old"], redirect=EDGE)
    tree.put_channels()
    assert [each.where for each in walk().errors] == [index_path(tree, STABLE)]


def test_a_tree_of_2015_is_whole_too(tree: Tree, walk: Callable[..., Findings]) -> None:
    index = replace(tree.indexes[EDGE, DEVICE], channel=None, device=None)
    tree.put(PLAIN, index.to_bytes())
    tree.put("channels.json", Channels({EDGE: Channel({DEVICE: DeviceEntry(f"/{PLAIN}")})}).to_bytes())
    del tree.files["channels.json.gpg"]
    assert walk(listed=False, legacy=True).findings == ()
    (missing,) = walk(listed=False).findings
    assert (missing.severity, missing.where, "--legacy" in missing.resolution) == ("error", "channels.json.gpg", True)
    tree.put("channels.json", tree.files["channels.json"], "stranger")
    assert [each.where for each in walk(listed=False, legacy=True).errors] == ["channels.json"]


def test_an_index_in_which_clients_of_2015_could_go_back_is_warned_of(
    tree: Tree, walk: Callable[..., Findings]
) -> None:
    """As earlier versions made it, until a repair."""
    images = tree.indexes[EDGE, DEVICE].images
    publish_index(tree, images=tuple(replace(image, minversion=0) for image in images))
    (warning,) = walk().findings
    assert (warning.severity, warning.resolution) == ("warning", REPAIR)
    assert "clients of 2015" in warning.problem


def test_channels_without_a_number_are_warned_of(tree: Tree, walk: Callable[..., Findings]) -> None:
    channels = Channels(dict(tree.channels)).to_bytes()
    tree.files["channels.json.gpg"] = tree.keys["image-signing"].inline(channels)
    found = walk()
    assert [(each.severity, each.problem) for each in found.findings] == [
        ("warning", "the channels have neither number nor expiry")
    ]


# What the channels do not name


def test_superseded_indexes_are_checked(tree: Tree, walk: Callable[..., Findings]) -> None:
    old = index_path(tree)
    tree.add_version(EDGE, 3)
    tree.publish()
    assert walk() == replace_checked(walk(), tree)
    tree.put(old, tree.files[old] + b"\n")
    assert [(each.where, each.problem) for each in walk().errors] == [
        (old, "the index does not have the digest of its name")
    ]
    tree.put(old, tree.files[old].removesuffix(b"\n"), "stranger")
    assert [(each.where, each.problem) for each in walk().errors] == [(old, "the signature is by an unknown key")]


def replace_checked(found: Findings, tree: Tree) -> Findings:
    """As a whole tree is: all of it was read."""
    second = {name for name in tree.files if re.search(r"gpg/.*-[0-9a-f]{64}\.tar\.xz\.asc", name)}
    return Findings(checked=len(tree.files) - len(second))


def test_objects_that_nothing_names_are_orphans(tree: Tree, walk: Callable[..., Findings]) -> None:
    tree.files |= {"pool/left.tar.xz": b"", "index.html": b"", "debian-core/13/edge/index.html": b""}
    assert walk().orphans == ("pool/left.tar.xz",)


def test_a_waiting_candidate_is_checked_whole(tree: Tree, walk: Callable[..., Findings]) -> None:
    index = replace(tree.indexes[EDGE, DEVICE], images=(*tree.indexes[EDGE, DEVICE].images, tree.image(EDGE, 3)))
    path = tree.put_candidate(EDGE, 3, index)
    found = walk()
    assert (found.errors, found.candidates) == (
        (), (WaitingCandidate(channel=EDGE, device=DEVICE, version=3),)
    )  # fmt: skip
    assert walk(listed=False).candidates == ()
    tree.put("pool/ubuntu-full-0-3.tar.xz", b"payload full 4")
    assert [each.where for each in walk().errors] == ["pool/ubuntu-full-0-3.tar.xz"]
    tree.image(EDGE, 3)
    for changes, problem in (
        ({"kind": "channels", "expires": NOW}, "'channels', not 'candidate'"),
        ({"channels": Channels({STABLE: tree.channels[STABLE]})}, "nothing but its own channel"),
        ({"channels": Channels({EDGE: tree.channels[EDGE], STABLE: tree.channels[STABLE]})}, "nothing but its own"),
        ({"channels": Channels({EDGE: tree.channels[EDGE]})}, "does not end with version 3"),
    ):
        tree.put_candidate(EDGE, 3, index, **changes)
        found = walk()
        assert [(each.where, bool(re.search(problem, each.problem))) for each in found.errors] == [(path, True)]
        assert found.candidates == ()
    tree.add_version(EDGE, 3)
    tree.publish()
    assert walk().findings == (), "a candidate that is released, or older, is not looked at"


# What is no finding


def test_a_server_that_breaks_off_is_no_finding(tree: Tree, walk: Callable[..., Findings]) -> None:
    class Broken(Tree):
        def download(self, path: str, target: Path, sha256: str, size_bytes: int) -> None:
            raise DownloadError("the connection broke off", where=path)

    tree.download = Broken().download  # type: ignore[method-assign]
    with pytest.raises(DownloadError):
        walk()


def test_a_collector_tells_faults_of_the_tree_from_ours() -> None:
    collector = Collector()
    with collector.noting("a"):
        raise VerificationError("wrong", where="b", resolution="x")
    with pytest.raises(HostError), collector.noting("a"):
        raise HostError("no room", where="b", resolution="x")
    collector.error("/b", "wrong")
    assert [(each.where, each.problem) for each in collector.findings] == [("b", "wrong")], "each once"
    both = Findings(checked=1, orphans=("a",)) + Findings(checked=2, findings=tuple(collector.findings))
    assert (both.checked, both.orphans, len(both.errors)) == (3, ("a",), 1)


def test_version_tarballs_of_the_simulator_are_those_of_the_server() -> None:
    """So that the walk reads what it reads in a real tree."""
    tree = Tree()
    content = version_tarball(EDGE, DEVICE, 2, "ubuntu=20261123,version=2", server=Server(), mtime=NOW)
    assert tree.files[VERSION] == content
