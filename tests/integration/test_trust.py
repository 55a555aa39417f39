"""What our client refuses over time, all rightly signed: an old tree, a frozen one, another's, one without end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coreimage.client import Seen, Session
from coreimage.client.documents import CHANNELS_LIMIT_BYTES, INDEX_LIMIT_BYTES
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import CoreimageError, VerificationError
from coreimage.http import Downloader
from coreimage.signing import GnupgSigner, Role, make_keyring, open_inline
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import (
    ChannelTree,
    create_channel,
    endings,
    promote,
    publish_keyrings,
    redirect_channel,
    set_device_keyring,
)
from coreimage.system_image.web import client_errors, open_server
from tests.harness.original_server import DEVICE as ORIGINAL_DEVICE
from tests.harness.original_server import EDGE, original_tree
from tests.harness.trees import CHANNEL, DEVICE, NOW, RememberingSigner, imported, now, released
from tests.harness.workshop import Workshop

STABLE = "debian-core/13/stable"
pytestmark = pytest.mark.spoils


class Tree:
    """Two versions of CHANNEL and one of STABLE; `opened` is a client's look at them."""

    def __init__(self, store: DirectoryStore, www: Path, signer: RememberingSigner) -> None:
        self.store, self.www, self.signer = store, www, signer
        publish_keyrings(self.tree)
        released(store, signer, "20261123", b"one")
        self.first = self.message.read_bytes()
        released(store, signer, "20261124", b"two")
        create_channel(self.tree, STABLE)
        promote(self.tree, CHANNEL, STABLE, DEVICE, version=1)

    @property
    def tree(self) -> ChannelTree:
        return ChannelTree(self.store, self.signer, now)

    @property
    def message(self) -> Path:
        return self.www / "channels.json.gpg"

    @property
    def archive_master(self) -> bytes:
        return make_keyring("archive-master", self.signer.public_key(Role.ARCHIVE_MASTER))

    def opened(self, **options: Any) -> Session:
        options = {"now": NOW.timestamp, **options}
        return open_server(self.www.as_uri(), self.archive_master, fetch=Downloader(), **options)

    def versions(self, **options: Any) -> list[int]:
        with client_errors():
            images = self.opened(**options).index(CHANNEL, DEVICE).images
        return [image.version for image in images if image.type == "full"]

    def seen(self) -> Seen:
        with client_errors():
            return self.opened().seen()

    def document(self) -> dict[str, Any]:
        keys = [self.signer.public_key(Role.IMAGE_SIGNING)]
        found: dict[str, Any] = json.loads(open_inline(self.message.read_bytes(), keys)[1])
        return found

    def sign(self, document: dict[str, Any]) -> None:
        """Publishes any document, rightly signed."""
        self.message.write_bytes(self.signer.inline(Role.IMAGE_SIGNING, json.dumps(document).encode()))


@pytest.fixture(scope="module")
def remembering(signer: GnupgSigner) -> RememberingSigner:
    return RememberingSigner(signer)


@pytest.fixture
def made(store: DirectoryStore, tree: Path, remembering: RememberingSigner) -> Tree:
    return Tree(store, tree, remembering)


def test_an_older_document_is_a_rollback(made: Tree) -> None:
    seen = made.seen()
    made.message.write_bytes(made.first)
    assert made.versions() == [1], "who has seen nothing cannot know"
    with pytest.raises(VerificationError, match="old channels are served"):
        made.versions(seen=seen)


def test_one_number_is_one_document(made: Tree) -> None:
    seen = made.seen()
    made.sign({**made.document(), "more": 1})
    with pytest.raises(VerificationError, match="old channels are served"):
        made.versions(seen=seen)


@pytest.mark.parametrize(("days", "served"), [(89, True), (91, False)])
def test_channels_past_their_end_are_frozen(made: Tree, days: int, served: bool) -> None:
    later = (NOW + timedelta(days=days)).timestamp
    if served:
        assert made.versions(now=later) == [1, 2]
    else:
        with pytest.raises(VerificationError, match="have expired"):
            made.versions(now=later)


def test_a_candidate_is_not_the_channels(made: Tree) -> None:
    candidate = imported(made.store, made.signer, "20261125", b"three")
    made.message.write_bytes((made.www.parent / candidate.channels.uri).read_bytes())
    with pytest.raises(VerificationError, match="'candidate'"):
        made.versions()


@pytest.mark.parametrize(("key", "value"), [("number", None), ("expires", None), ("expires", "soon"), ("kind", "x")])
def test_a_document_that_leaves_something_out(made: Tree, key: str, value: object) -> None:
    document = {**made.document(), key: value}
    if value is None:
        del document[key]
    made.sign(document)
    with pytest.raises(VerificationError):
        made.versions()


def test_the_index_of_another_channel_or_device(made: Tree) -> None:
    """Rightly signed and rightly named by the channels: only what it says of itself gives it away."""
    document = made.document()
    document["channels"][CHANNEL]["devices"][DEVICE] = document["channels"][STABLE]["devices"][DEVICE]
    document["channels"][CHANNEL]["devices"]["pc_amd64"] = document["channels"][CHANNEL]["devices"][DEVICE]
    made.sign(document)
    with pytest.raises(VerificationError, match=f"of {STABLE} for {DEVICE}"):
        made.versions()
    with pytest.raises(VerificationError, match=f"of {STABLE} for {DEVICE}"), client_errors():
        made.opened().index(CHANNEL, "pc_amd64")


def test_a_signed_redirect_names_its_target(made: Tree) -> None:
    redirect_channel(made.tree, "old", CHANNEL)
    with client_errors():
        assert made.opened().index("old", DEVICE).channel == CHANNEL
    document = made.document()
    document["channels"]["old"]["redirect"] = STABLE
    made.sign(document)
    with pytest.raises(VerificationError, match=f"the index is of {CHANNEL}"), client_errors():
        made.opened().index("old", DEVICE)


def test_an_index_that_the_channels_do_not_pin(made: Tree) -> None:
    document = made.document()
    del document["channels"][CHANNEL]["devices"][DEVICE]["index_sha256"]
    made.sign(document)
    with pytest.raises(VerificationError, match="which index is its own"):
        made.versions()


def test_a_swapped_delta(made: Tree, tmp_path: Path) -> None:
    """Another file that image-signing has signed, of the same kind, in the delta's place."""
    with client_errors():
        opened = made.opened()
        (delta,) = [image for image in opened.index(CHANNEL, DEVICE).images if image.type == "delta"]
    other = next(path for path in (made.www / "pool").glob("device-*.tar.xz"))
    here = made.www / delta.files[0].path.lstrip("/")
    for suffix in ("", ".asc"):
        Path(f"{here}{suffix}").write_bytes(Path(f"{other}{suffix}").read_bytes())
    with pytest.raises(CoreimageError) as refusal, client_errors():
        opened.download(CHANNEL, DEVICE, delta, tmp_path)
    assert refusal.value.exit_status == 3
    assert not (tmp_path / here.name).exists()


def _sparse(path: Path, size_bytes: int) -> None:
    os.truncate(path, size_bytes + 1)


LARGE: dict[str, Callable[[Tree], object]] = {
    "channels": lambda made: _sparse(made.message, CHANNELS_LIMIT_BYTES),
    "index": lambda made: _sparse(_index_of(made), INDEX_LIMIT_BYTES),
    "keyring": lambda made: _sparse(made.www / "gpg/image-signing.tar.xz", KEYRING_LIMIT_BYTES),
    "signature": lambda made: _sparse(Path(f"{_index_of(made)}.asc"), 1 << 20),
    "blacklist": lambda made: _sparse(made.www / "gpg/blacklist.tar.xz", KEYRING_LIMIT_BYTES),
}


def _index_of(made: Tree) -> Path:
    path: str = made.document()["channels"][CHANNEL]["devices"][DEVICE]["index"]
    return made.www / path.lstrip("/")


@pytest.mark.parametrize("what", LARGE)
def test_more_than_a_document_may_have(what: str, made: Tree) -> None:
    LARGE[what](made)
    with pytest.raises(VerificationError, match=r"larger than|more than"):
        made.versions()


def test_a_payload_is_never_longer_than_the_index_says(made: Tree, tmp_path: Path) -> None:
    with client_errors():
        opened = made.opened()
        image = opened.select(CHANNEL, DEVICE)
    rootfs = made.www / image.files[0].path.lstrip("/")
    _sparse(rootfs, 1 << 34)
    with pytest.raises(VerificationError), client_errors():
        opened.download(CHANNEL, DEVICE, image, tmp_path)
    assert list(tmp_path.glob("*.tar.xz*")) == []


def test_what_binds_once_binds_for_ever(made: Tree, tmp_path: Path, remembering: RememberingSigner) -> None:
    """A legacy server is believed where that is configured, until it was seen to bind."""
    seen = made.seen()
    original_tree(tmp_path / "original", remembering, NOW.timestamp())
    url = (tmp_path / "original").as_uri()

    def look(**options: Any) -> object:
        with client_errors():
            opened = open_server(url, made.archive_master, fetch=Downloader(), now=NOW.timestamp, **options)
            return opened.index(EDGE, ORIGINAL_DEVICE), opened.seen()

    assert look(legacy=True)
    for options in ({}, {"seen": seen}, {"seen": seen, "legacy": True}):
        with pytest.raises(VerificationError):
            look(**options)


def test_commands_remember_between_their_runs(made: Tree, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "work", ordinary=False)
    workshop.folder.mkdir()
    (workshop.folder / "top.tar.xz").write_bytes(made.archive_master)
    words = ["channel", "list", "--server", str(made.www), "--keyring", "top.tar.xz"]
    assert CHANNEL in workshop.coreimage(*words).stdout
    newest = made.message.read_bytes()
    made.message.write_bytes(made.first)
    refused = workshop.coreimage(*words, accept=(3,))
    assert "old channels are served" in refused.stderr
    assert "Traceback" not in refused.stderr
    made.message.write_bytes(newest)
    workshop.coreimage(*words)


def test_whatever_ends_is_told_before(made: Tree) -> None:
    def told(days: int) -> list[str]:
        at = NOW + timedelta(days=days)
        return [sentence.partition(" ends")[0] for sentence in endings(store=made.store, within=_DAYS_90, now=at)]

    keyring = make_keyring(
        "device-signing",
        made.signer.public_key(Role.CDIMAGE),
        expiry=int((NOW + timedelta(days=31)).timestamp()),
    )
    path = made.www / "keyrings/maker.tar.xz"
    path.parent.mkdir()
    path.write_bytes(keyring)
    Path(f"{path}.asc").write_bytes(made.signer.detached(Role.IMAGE_SIGNING, keyring))
    set_device_keyring(made.tree, CHANNEL, DEVICE, "keyrings/maker.tar.xz")
    assert told(0) == []
    assert told(22) == [f"the keyring of {DEVICE} in {CHANNEL}"]
    assert told(61) == ["the channels document", f"the keyring of {DEVICE} in {CHANNEL}"]
    assert told(650)[0] == "the image-signing keyring"


_DAYS_90 = timedelta(days=90)
