"""Version numbers are claimed once and for ever; what a version says of itself is read back."""

from __future__ import annotations

import json

import pytest

from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import TEXT, Server
from coreimage.system_image.channels import versions
from coreimage.system_image.channels.versions import (
    VersionClaim,
    claim_key,
    claim_version,
    find_version,
    put_version,
    read_claim,
    require_version_file,
    server_of,
)
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import full_image
from coreimage.system_image.server import ChannelTree
from tests.harness.memory_store import MemoryStore
from tests.unit.system_image.published import DEVICE, EDGE, change_object, channels_of, index_of, release

CLAIM = VersionClaim(EDGE, DEVICE, 3, "ubuntu=20261123,version=3", "a" * 64, "Mon Nov 23 12:00:00 UTC 2026")


def claim(store: MemoryStore, identity: str, *, newest: int = 0, last: int = 0) -> int:
    return claim_version(
        store, EDGE, DEVICE, identity=identity, detail="x=1", generated_at="", newest=newest, last=last
    ).version


def test_a_claim_is_the_sidecar_of_the_original_server() -> None:
    document = json.loads(CLAIM.to_json())
    assert document["generator"] == "version"
    assert (document["version"], document["version_detail"]) == (3, "version=3")
    assert document["channel.ini"] == {
        "channel": EDGE,
        "device": DEVICE,
        "version": "3",
        "version_detail": "ubuntu=20261123,version=3",
    }
    assert VersionClaim.from_json(CLAIM.to_json(), "") == CLAIM


def test_the_same_inputs_get_the_same_number_and_others_the_next() -> None:
    store = MemoryStore()
    assert [claim(store, identity) for identity in ("a", "b", "a", "b")] == [1, 2, 1, 2]
    assert claim(store, "a", newest=1, last=1) == 1, "what is released keeps its number"
    assert claim(store, "b", newest=1, last=1) == 2
    assert claim(store, "a", newest=2, last=2) == 3, "content that comes back gets a higher number"
    assert claim(store, "a", newest=1, last=4) == 5, "numbers of removed versions are not given again"


def test_the_detail_ends_with_the_number() -> None:
    store = MemoryStore()
    claimed = claim_version(store, EDGE, DEVICE, identity="a", detail="", generated_at="", newest=0, last=0)
    assert claimed.version_detail == "version=1"
    assert read_claim(store, EDGE, DEVICE, 1) == claimed
    assert read_claim(store, EDGE, DEVICE, 2) is None


def test_a_number_of_the_original_server_is_taken() -> None:
    store = MemoryStore()
    sidecar = json.loads(CLAIM.to_json())
    del sidecar["identity"], sidecar["generated_at"]
    store.put_bytes(claim_key(EDGE, DEVICE, 1), json.dumps(sidecar).encode(), media_type=TEXT)
    assert claim(store, "a") == 2


def test_numbers_end_where_clients_cannot_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSION_LIMIT", 2)
    store = MemoryStore()
    assert [claim(store, identity) for identity in "ab"] == [1, 2]
    with pytest.raises(ConflictError, match="new channel"):
        claim(store, "c")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version": 1}', b'{"version": 1, "channel.ini": []}'])
def test_what_is_no_sidecar_is_refused(content: bytes) -> None:
    with pytest.raises(VerificationError, match="sidecar"):
        VersionClaim.from_json(content, "where")


@pytest.mark.parametrize(
    "server", [Server(), Server(base="images.example.com", http_port=None, https_port=8443)], ids=["default", "own"]
)
def test_a_version_file_names_its_server(tree: ChannelTree, server: Server) -> None:
    file = put_version(tree, CLAIM, server, 1_700_000_000)
    image = full_image(3, CLAIM.version_detail, "", [file])
    assert server_of(tree.store, require_version_file(image, "")) == (server, 1_700_000_000)
    assert tree.store.head(f"{file.uri}.asc") is not None
    assert tree.store.head(f"{CLAIM.key}.asc") is not None


def test_a_version_file_that_was_changed_is_refused(tree: ChannelTree) -> None:
    release(tree, b"one")
    file = require_version_file(index_of(tree).fulls[0], "")
    change_object(tree.store, layout.key(file.path), lambda content: content[:-1] + b"x")
    with pytest.raises(VerificationError):
        server_of(tree.store, file)


def test_an_image_without_a_version_file_is_refused(tree: ChannelTree) -> None:
    release(tree, b"one")
    image = index_of(tree).fulls[0]
    bare = full_image(1, "", "", [])
    with pytest.raises(NotFoundError, match="version 1 has no file"):
        require_version_file(bare, "where")
    assert find_version(tree.store, channels_of(tree), EDGE, DEVICE, 1) == image
    assert find_version(tree.store, channels_of(tree), EDGE, DEVICE, None) == image
    with pytest.raises(NotFoundError, match="its versions: 1"):
        find_version(tree.store, channels_of(tree), EDGE, DEVICE, 2)
