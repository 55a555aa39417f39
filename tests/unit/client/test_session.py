"""Every rule of the chain of trust, through a session with a simulated tree: what is right is used, all else is not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coreimage.client import (
    Channel,
    Channels,
    ClientError,
    DeviceEntry,
    DownloadError,
    Index,
    NotPresentError,
    RepositoryError,
    Seen,
    Session,
    SignatureError,
    SignedChannels,
)
from coreimage.client.documents import CHANNELS_LIMIT_BYTES, INDEX_LIMIT_BYTES, KeyringPaths
from coreimage.client.fetch import SIGNATURE_LIMIT_BYTES, Web, keyring_signature_path
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.client.trust import ArchiveMaster, LocalFile, Signed
from coreimage.signing import make_keyring
from tests.harness.memory_signer import said_in
from tests.unit.client.simulator import DAY_S, DEVICE, EDGE, NOW, STABLE, TagVerify, Tree


@pytest.fixture
def tree() -> Tree:
    return Tree()


def index_of(tree: Tree, channel: str = EDGE, device: str = DEVICE, **options: Any) -> Index:
    return tree.session(**options).index(channel, device)


def index_path(tree: Tree, channel: str = EDGE) -> str:
    return tree.channels[channel].devices[DEVICE].index.lstrip("/")


def download(tree: Tree, folder: Path, **options: Any) -> tuple[Path, ...]:
    session = tree.session()
    return session.download(EDGE, DEVICE, session.select(EDGE, DEVICE), folder, **options)


def give_device_keyring(tree: Tree, by: str = "image-signing", kind: str = "device-signing", **about: Any) -> None:
    """EDGE's device gets a keyring of its own."""
    tree.put("/keys/device.tar.xz", make_keyring(kind, tree.both("device-signing"), **about), by)
    entry = tree.channels[EDGE].devices[DEVICE]
    keyring = KeyringPaths("/keys/device.tar.xz", "/keys/device.tar.xz.asc")
    tree.set_device(EDGE, DEVICE, replace(entry, keyring=keyring))
    tree.publish()


# What is right


def test_a_tree_is_read_from_the_keyring_down(tree: Tree, tmp_path: Path) -> None:
    session = tree.session()
    assert list(session.channels()) == [EDGE, STABLE]
    assert session.expires() == NOW + 90 * DAY_S
    assert [image.version for image in session.index(EDGE, DEVICE).images] == [1, 2]
    image = session.select(EDGE, DEVICE)
    assert (image.version, session.select(EDGE, DEVICE, -1).version) == (2, 1)
    files = session.download(EDGE, DEVICE, image, tmp_path)
    assert [path.name for path in files] == ["ubuntu-full-0-2.tar.xz", "version-2.tar.xz"]
    assert files[0].read_bytes() == b"payload full 2"
    assert session.message(tree.keys["image-signing"].inline(b"hello"), "x") == b"hello"


def test_documents_are_fetched_once_in_the_order_of_trust(tree: Tree, tmp_path: Path) -> None:
    session = tree.session()
    for _ in range(2):
        image = session.select(EDGE, DEVICE)
        session.download(EDGE, DEVICE, image, tmp_path, leave_out=["version-2.tar.xz"])
    documents = [
        "gpg/image-master.tar.xz", "gpg/image-master.tar.xz.asc", "gpg/blacklist.tar.xz", "gpg/image-signing.tar.xz",
        "gpg/image-signing.tar.xz.asc", "channels.json.gpg", index_path(tree), f"{index_path(tree)}.asc",
    ]  # fmt: skip
    payload = "pool/ubuntu-full-0-2.tar.xz"
    assert tree.requests == [*documents, payload, f"{payload}.asc", f"{payload}.asc"], "a right file is not read again"


@pytest.mark.parametrize("role", ["archive-master", "image-master", "image-signing"])
def test_a_second_key_of_a_keyring_signs_as_well(role: str, tree: Tree) -> None:
    if role == "archive-master":
        tree.put_keyring("image-master", tree.both("image-master"), by="archive-master-2")
    elif role == "image-master":
        tree.put_keyring("image-signing", tree.both("image-signing"), by="image-master-2")
    else:
        tree.put(index_path(tree), tree.files[index_path(tree)], by="image-signing-2")
    assert index_of(tree).newest_version == 2


# Signatures


def by_stranger(path: str) -> Callable[[Tree], None]:
    return lambda tree: tree.put(path, tree.files[path], by="stranger")


def _channels_by(tree: Tree, name: str) -> None:
    message = said_in(tree.files["channels.json.gpg"]).partition(b"\n")[2]
    tree.files["channels.json.gpg"] = tree.keys[name].inline(message)


FOREIGN: dict[str, Callable[[Tree], None]] = {
    "image-master": lambda tree: tree.put_keyring("image-master", tree.both("image-master"), by="stranger"),
    "image-master by itself": lambda tree: tree.put_keyring(
        "image-master", tree.both("image-master"), by="image-master"
    ),
    "image-signing": lambda tree: tree.put_keyring("image-signing", tree.both("image-signing"), by="stranger"),
    "image-signing by archive-master": lambda tree: tree.put_keyring(
        "image-signing", tree.both("image-signing"), by="archive-master"
    ),
    "blacklist": lambda tree: tree.put_keyring("blacklist", b"", by="image-signing"),
    "channels": lambda tree: _channels_by(tree, "stranger"),
    "channels by image-master": lambda tree: _channels_by(tree, "image-master"),
    "index": lambda tree: by_stranger(index_path(tree))(tree),
    "index by a device key that the channel does not name": lambda tree: tree.put(
        index_path(tree), tree.files[index_path(tree)], by="device-signing"
    ),
    "device keyring": lambda tree: give_device_keyring(tree, by="stranger"),
    "device keyring by itself": lambda tree: give_device_keyring(tree, by="device-signing"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_somebody_else_signed_is_refused(what: str, tree: Tree) -> None:
    assert index_of(tree)
    FOREIGN[what](tree)
    with pytest.raises(SignatureError, match="unknown key"):
        index_of(tree)


def test_a_message_by_somebody_else_is_refused(tree: Tree) -> None:
    with pytest.raises(SignatureError):
        tree.session().message(tree.keys["stranger"].inline(b"hello"), "x")


# The blacklist


def test_the_signer_of_image_signing_may_be_blacklisted(tree: Tree) -> None:
    tree.blacklist("image-master-2")
    assert index_of(tree)
    tree.put_keyring("image-signing", tree.both("image-signing"), by="image-master-2")
    with pytest.raises(SignatureError, match="blacklisted"):
        index_of(tree)


BLACKLISTED: dict[str, Callable[[Tree], object]] = {
    "channels": lambda tree: _channels_by(tree, "image-signing-2"),
    "index": lambda tree: tree.put(index_path(tree), tree.files[index_path(tree)], by="image-signing-2"),
    "device keyring": lambda tree: give_device_keyring(tree, by="image-signing-2"),
    "file": lambda tree: tree.put("pool/ubuntu-full-0-2.tar.xz", b"payload full 2", by="image-signing-2"),
}


@pytest.mark.parametrize("what", BLACKLISTED)
def test_a_blacklisted_key_signs_nothing(what: str, tree: Tree, tmp_path: Path) -> None:
    BLACKLISTED[what](tree)
    assert download(tree, tmp_path)
    tree.blacklist("image-signing-2")
    with pytest.raises(SignatureError, match="blacklisted"):
        download(tree, tmp_path)


def test_a_blacklisted_key_signs_no_message(tree: Tree) -> None:
    tree.blacklist("image-signing-2")
    with pytest.raises(SignatureError, match="blacklisted"):
        tree.session().message(tree.keys["image-signing-2"].inline(b"hello"), "x")


def test_a_blacklisted_device_key_signs_no_index(tree: Tree) -> None:
    give_device_keyring(tree)
    tree.put(index_path(tree), tree.files[index_path(tree)], by="device-signing")
    assert index_of(tree)
    tree.blacklist("device-signing")
    with pytest.raises(SignatureError, match="blacklisted"):
        index_of(tree)


def test_a_blacklist_that_cannot_be_read_stops_everything(tree: Tree) -> None:
    tree.put_keyring("blacklist", b"no OpenPGP", by="image-master")
    with pytest.raises(RepositoryError, match="no OpenPGP key"):
        index_of(tree)


# Keyrings


@pytest.mark.parametrize(("kind", "by"), [("image-master", "archive-master"), ("image-signing", "image-master")])
def test_a_keyring_ends_at_its_second(kind: str, by: str, tree: Tree) -> None:
    tree.put_keyring(kind, tree.both(kind), by=by, expiry=NOW)
    tree.now = NOW - 1
    assert index_of(tree)
    tree.now = NOW
    with pytest.raises(RepositoryError, match="expired"):
        index_of(tree)


@pytest.mark.parametrize(
    ("kind", "about", "problem"),
    [("image-signing", {}, "of type"), ("archive-master", {"expiry": NOW}, "expired")],
)
def test_the_given_keyring_must_be_an_archive_master(
    kind: str, about: dict[str, Any], problem: str, tree: Tree
) -> None:
    tree.archive_master = make_keyring(kind, tree.both("archive-master"), **about)
    with pytest.raises(RepositoryError, match=problem):
        index_of(tree)


def test_one_keyring_does_not_pass_for_another(tree: Tree) -> None:
    for name in (".tar.xz", ".tar.xz.asc"):
        tree.files[f"gpg/image-signing{name}"] = tree.files[f"gpg/image-master{name}"]
    tree.put("gpg/image-signing.tar.xz", tree.files["gpg/image-signing.tar.xz"], by="image-master")
    with pytest.raises(RepositoryError, match="of type 'image-master'"):
        index_of(tree)


@pytest.mark.parametrize("kind", ["image-master", "image-signing", "blacklist"])
@pytest.mark.parametrize("torn", [b"of the former keyring", None])
def test_a_torn_keyring_has_a_second_signature(kind: str, torn: bytes | None, tree: Tree) -> None:
    """A renewal was killed after the keyring, and before the signature that old clients look at."""
    tree.blacklist("image-signing-2")
    path = f"gpg/{kind}.tar.xz.asc"
    tree.files.pop(path)
    if torn is not None:
        tree.files[path] = torn
    assert index_of(tree)
    tree.put(index_path(tree), tree.files[index_path(tree)], by="image-signing-2")
    with pytest.raises(SignatureError, match="blacklisted"):
        index_of(tree)


def test_a_torn_keyring_needs_one_right_signature(tree: Tree) -> None:
    tree.files["gpg/image-signing.tar.xz.asc"] = b"torn"
    second = keyring_signature_path("image-signing", tree.files["gpg/image-signing.tar.xz"])
    tree.files[second] = tree.keys["stranger"].detached(tree.files["gpg/image-signing.tar.xz"])
    with pytest.raises(SignatureError, match="unknown key"):
        index_of(tree)
    del tree.files[second]
    with pytest.raises(SignatureError, match="not of this content"):
        index_of(tree)
    del tree.files["gpg/image-signing.tar.xz.asc"]
    with pytest.raises(NotPresentError):
        index_of(tree)


# The keys of devices


def test_a_devices_own_key_signs_its_index_and_files(tree: Tree, tmp_path: Path) -> None:
    give_device_keyring(tree, model=DEVICE)
    tree.put(index_path(tree), tree.files[index_path(tree)], by="device-signing")
    tree.put("pool/ubuntu-full-0-2.tar.xz", b"payload full 2", by="device-signing-2")
    assert len(download(tree, tmp_path)) == 2
    tree.put(index_path(tree, STABLE), tree.files[index_path(tree, STABLE)], by="device-signing")
    with pytest.raises(SignatureError, match="unknown key"):
        index_of(tree, STABLE)


@pytest.mark.parametrize(
    ("about", "problem"),
    [
        ({"model": "pi_arm64"}, "for 'pi_arm64'"),
        ({"expiry": NOW}, "expired"),
        ({"kind": "image-signing"}, "of type 'image-signing'"),
    ],
)
def test_an_unfit_device_keyring_is_refused(about: dict[str, Any], problem: str, tree: Tree) -> None:
    give_device_keyring(tree, **about)
    with pytest.raises(RepositoryError, match=problem):
        index_of(tree)


def test_a_device_keyring_that_is_not_there_is_not_done_without(tree: Tree) -> None:
    give_device_keyring(tree)
    del tree.files["keys/device.tar.xz"]
    with pytest.raises(NotPresentError):
        index_of(tree)


# The channels document


def test_channels_end_at_their_second(tree: Tree) -> None:
    tree.put_channels(expires=NOW)
    tree.now = NOW - 1
    assert index_of(tree)
    tree.now = NOW
    with pytest.raises(RepositoryError, match="have expired on 2027-01-15"):
        index_of(tree)


def test_older_channels_are_refused(tree: Tree) -> None:
    old = tree.files["channels.json.gpg"]
    first = tree.session().seen()
    assert first.number == tree.number
    tree.publish()
    seen = tree.session(seen=first).seen()
    assert seen.number == first.number + 1
    tree.files["channels.json.gpg"] = old
    assert index_of(tree, seen=first), "the same document again"
    with pytest.raises(RepositoryError, match="old channels are served"):
        index_of(tree, seen=seen)
    with pytest.raises(RepositoryError, match="old channels are served"):
        tree.session(seen=seen).seen()


def test_one_number_is_one_document(tree: Tree) -> None:
    seen = tree.session().seen()
    tree.put_channels(expires=tree.expires + 1)
    with pytest.raises(RepositoryError, match="old channels are served"):
        index_of(tree, seen=seen)
    assert index_of(tree, seen=Seen(seen.number)), "of which only the number is known"


def test_a_candidate_is_not_the_servers_channels(tree: Tree) -> None:
    tree.put_channels(kind="candidate", expires=None)
    with pytest.raises(RepositoryError, match="'candidate', not 'channels'"):
        index_of(tree)


def test_a_candidate_is_seen_by_who_asks_for_it(tree: Tree) -> None:
    index = replace(tree.indexes[EDGE, DEVICE], images=(tree.image(EDGE, 3),))
    path = tree.put_candidate(EDGE, 3, index)
    seen = Seen(5, "b" * 64)
    session = tree.session(channels_path=path, seen=seen)
    assert session.index(EDGE, DEVICE).newest_version == 3
    assert (session.seen(), session.expires()) == (seen, None), "nothing is to be remembered of it"
    assert index_of(tree).newest_version == 2


def test_the_servers_channels_are_no_candidate(tree: Tree) -> None:
    tree.files["x/channels.json.gpg"] = tree.files["channels.json.gpg"]
    with pytest.raises(RepositoryError, match="'channels', not 'candidate'"):
        index_of(tree, channels_path="x/channels.json.gpg")
    with pytest.raises(NotPresentError):
        index_of(tree, channels_path="y/channels.json.gpg")


def test_an_unknown_channel_or_device_is_named(tree: Tree) -> None:
    with pytest.raises(NotPresentError, match="no channel 'debian-core/13/edg'"):
        index_of(tree, "debian-core/13/edg")
    with pytest.raises(NotPresentError, match="has no device 'pi_arm64'"):
        index_of(tree, device="pi_arm64")
    with pytest.raises(NotPresentError, match="no full image for revision 7"):
        tree.session().select(EDGE, DEVICE, 7)


# Servers of 2015


@pytest.fixture
def legacy(tree: Tree) -> Tree:
    """A tree whose documents bind nothing."""
    index = replace(tree.indexes[EDGE, DEVICE], channel=None, device=None)
    tree.put(f"/{EDGE}/{DEVICE}/index.json", index.to_bytes())
    channels = Channels({EDGE: Channel({DEVICE: DeviceEntry(f"/{EDGE}/{DEVICE}/index.json")})})
    tree.put("channels.json", channels.to_bytes())
    del tree.files["channels.json.gpg"]
    return tree


def test_a_legacy_server_is_believed_where_that_is_wanted(legacy: Tree) -> None:
    assert index_of(legacy, legacy=True).newest_version == 2
    assert legacy.session(legacy=True).seen() == Seen()
    with pytest.raises(RepositoryError, match="only a legacy server"):
        index_of(legacy)
    with pytest.raises(RepositoryError, match="old channels are served"):
        index_of(legacy, legacy=True, seen=Seen(1, "a" * 64))


def test_a_legacy_server_signs_its_channels(legacy: Tree) -> None:
    by_stranger("channels.json")(legacy)
    with pytest.raises(SignatureError):
        index_of(legacy, legacy=True)


@pytest.mark.parametrize("wrong", [{"channel": STABLE}, {"device": "pi_arm64"}])
def test_a_legacy_index_that_says_what_it_is_of_must_be_right(wrong: dict[str, Any], legacy: Tree) -> None:
    legacy.put(f"/{EDGE}/{DEVICE}/index.json", replace(legacy.indexes[EDGE, DEVICE], **wrong).to_bytes())
    with pytest.raises(RepositoryError, match="the index is of"):
        index_of(legacy, legacy=True)


# Indexes


def test_an_index_that_the_channels_do_not_pin(tree: Tree) -> None:
    entry = tree.channels[EDGE].devices[DEVICE]
    tree.set_device(EDGE, DEVICE, replace(entry, index_sha256=None))
    tree.put_channels()
    with pytest.raises(RepositoryError, match="which index is its own"):
        index_of(tree)


def test_other_bytes_than_the_channels_pin(tree: Tree) -> None:
    older = replace(tree.indexes[EDGE, DEVICE], images=tree.indexes[EDGE, DEVICE].images[:1])
    tree.put(index_path(tree), older.to_bytes())
    with pytest.raises(RepositoryError, match="not the one that the channel names"):
        index_of(tree)


@pytest.mark.parametrize("wrong", [{"device": "pi_arm64"}, {"channel": STABLE}, {"device": None}, {"channel": None}])
def test_an_index_of_another_channel_or_device(wrong: dict[str, Any], tree: Tree) -> None:
    """Rightly signed and pinned: only what it says of itself gives it away."""
    other: Index = replace(tree.indexes[EDGE, DEVICE], **wrong)
    tree.set_device(EDGE, DEVICE, tree.put_index(EDGE, DEVICE, other))
    tree.put_channels()
    with pytest.raises(RepositoryError, match=f"not of {EDGE} for {DEVICE}"):
        index_of(tree)


def test_a_redirect_gives_what_it_leads_to(tree: Tree) -> None:
    tree.channels["old"] = replace(tree.channels[STABLE], redirect=STABLE, hidden=True)
    entry = tree.channels[STABLE].devices[DEVICE]
    tree.set_device(EDGE, DEVICE, replace(entry, redirect=STABLE))
    tree.put_channels()
    assert index_of(tree, "old").channel == STABLE
    assert index_of(tree, EDGE).channel == STABLE
    tree.channels["old"] = replace(tree.channels["old"], redirect=EDGE)
    tree.set_device(EDGE, DEVICE, replace(entry, redirect="old"))
    tree.put_channels()
    for channel in ("old", EDGE):
        with pytest.raises(RepositoryError, match=f"the index is of {STABLE}"):
            index_of(tree, channel)


def test_an_alias_has_an_index_of_its_own(tree: Tree) -> None:
    index = replace(tree.indexes[STABLE, DEVICE], channel="alias", channel_target=STABLE)
    tree.channels["alias"] = Channel({DEVICE: tree.put_index("alias", DEVICE, index)}, alias=STABLE)
    tree.put_channels()
    assert index_of(tree, "alias").channel_target == STABLE
    tree.channels["alias"] = replace(tree.channels[STABLE], alias=STABLE)
    tree.put_channels()
    with pytest.raises(RepositoryError, match="not of alias for"):
        index_of(tree, "alias")


# Files

PAYLOAD = "pool/ubuntu-full-0-2.tar.xz"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"payload full 3", "does not have the digest"), (b"payload", "7 bytes"), (b"payload full 2+", "15 bytes")],
)
def test_a_signed_file_of_other_content_is_refused(content: bytes, problem: str, tree: Tree, tmp_path: Path) -> None:
    tree.put(PAYLOAD, content)
    with pytest.raises(RepositoryError, match=problem):
        download(tree, tmp_path)
    assert list(tmp_path.iterdir()) == [], "no wrong file stays"


def test_a_right_file_that_nobody_signed_is_refused(tree: Tree, tmp_path: Path) -> None:
    by_stranger(PAYLOAD)(tree)
    with pytest.raises(SignatureError):
        download(tree, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_used_when_they_are_right(tree: Tree, tmp_path: Path) -> None:
    right, wrong = tmp_path / Path(PAYLOAD).name, tmp_path / "version-2.tar.xz"
    right.write_bytes(b"payload full 2")
    wrong.write_bytes(b"cut sh")
    download(tree, tmp_path)
    assert PAYLOAD not in tree.requests
    assert f"{EDGE}/{DEVICE}/version-2.tar.xz" in tree.requests
    assert wrong.read_bytes() == tree.files[f"{EDGE}/{DEVICE}/version-2.tar.xz"]


def test_files_may_be_fetched_in_any_way(tree: Tree, tmp_path: Path) -> None:
    names: list[str] = []

    def backwards(function: Any, files: Any) -> Any:
        paths = [function(file) for file in reversed(files)]
        names.extend(path.name for path in paths)
        return reversed(paths)

    files = download(tree, tmp_path, each=backwards)
    assert names == [path.name for path in reversed(files)]
    assert download(tree, tmp_path, leave_out=[Path(PAYLOAD).name]) == files[1:]


# The server


class Broken(Tree):
    """A server that breaks off at one of its files."""

    broken = ""

    def read(self, path: str, limit_bytes: int) -> bytes:
        if path.lstrip("/") == self.broken:
            raise DownloadError("the connection broke off", where=path)
        return super().read(path, limit_bytes)


def test_a_blacklist_that_cannot_be_fetched_is_not_taken_for_absent() -> None:
    for path in ("gpg/blacklist.tar.xz", "gpg/blacklist.tar.xz.asc", "channels.json.gpg"):
        tree = Broken()
        tree.blacklist("image-signing-2")
        tree.broken = path
        with pytest.raises(DownloadError):
            index_of(tree)


@pytest.mark.parametrize(
    ("path", "limit_bytes"),
    [
        ("gpg/image-master.tar.xz", KEYRING_LIMIT_BYTES),
        ("gpg/image-signing.tar.xz.asc", SIGNATURE_LIMIT_BYTES),
        ("channels.json.gpg", CHANNELS_LIMIT_BYTES),
        ("index", INDEX_LIMIT_BYTES),
    ],
)
def test_documents_are_read_up_to_a_limit(path: str, limit_bytes: int, tree: Tree) -> None:
    limits: dict[str, int] = {}

    class Recording:
        """The tree, and what is read at most of each file."""

        def read(self, path: str, limit_bytes: int) -> bytes:
            limits[path.lstrip("/")] = limit_bytes
            return tree.read(path, limit_bytes)

        download = tree.download

    recording: Web = Recording()
    Session(recording, TagVerify(), tree.archive_master, lambda: NOW).index(EDGE, DEVICE)
    assert limits[index_path(tree) if path == "index" else path] == limit_bytes


# The chain itself


def test_a_device_with_a_keyring_is_not_trusted_without_it(tree: Tree) -> None:
    """That is a mistake of the caller, and no answer of a server."""
    give_device_keyring(tree)

    def signed(path: str) -> Signed:
        return Signed(path, tree.files[path], tree.files[f"{path}.asc"])

    top = ArchiveMaster.trust(tree.archive_master, TagVerify(), now=NOW)
    master = top.image_master(signed("gpg/image-master.tar.xz"), now=NOW)
    signing = master.image_signing(signed("gpg/image-signing.tar.xz"), master.blacklist(None, now=NOW), now=NOW)
    channels = signing.channels(tree.files["channels.json.gpg"], "channels.json.gpg")
    trusted = channels.current(Seen(), now=NOW, legacy=False)
    with pytest.raises(ValueError, match="keyring of its own"):
        trusted.device(EDGE, DEVICE, None, now=NOW)
    device = trusted.device(EDGE, DEVICE, signed("keys/device.tar.xz"), now=NOW)
    index = device.index(signed(index_path(tree)))
    file = index.index.images[0].files[0]
    sha256 = hashlib.sha256(b"payload full 1").hexdigest()
    with pytest.raises(ClientError):
        index.check_file(file, LocalFile(Path("x"), 15, sha256), b"")


def test_signed_channels_are_bound_from_their_first_number_on(tree: Tree) -> None:
    document = SignedChannels(Channels(dict(tree.channels)), 1, expires=tree.expires)
    tree.files["channels.json.gpg"] = tree.keys["image-signing"].inline(document.to_bytes())
    assert index_of(tree)
    entry = tree.channels[EDGE].devices[DEVICE]
    tree.set_device(EDGE, DEVICE, replace(entry, index_sha256=None))
    tree.put_channels(number=1)
    with pytest.raises(RepositoryError, match="which index is its own"):
        index_of(tree)
