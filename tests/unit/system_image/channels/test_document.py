"""The channels document and the pairs of 2015 beside it: read whole, put for what they are, healed after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from coreimage.client.documents import Channels, SignedChannels
from coreimage.errors import ConflictError, LostWriteError, VerificationError
from coreimage.model import JSON, OPENPGP_MESSAGE, OPENPGP_SIGNATURE
from coreimage.signing import Role
from coreimage.storage import read_bytes
from coreimage.system_image.channels import document
from coreimage.system_image.channels.changes import alias_channel, create_channel, redirect_channel, remove_channel
from coreimage.system_image.channels.document import (
    heal_pair,
    put_candidate_channels,
    put_channels,
    put_index,
    read_channels,
    read_index,
)
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import build_index
from coreimage.system_image.server import ChannelTree
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore
from tests.unit.publication.stores import WatchedStore
from tests.unit.system_image.published import (
    DEVICE,
    EDGE,
    NOON,
    STABLE,
    change_object,
    channels_of,
    index_of,
    keys,
    make_candidate,
    make_tree,
    release,
)

SIGNED, PLAIN = layout.key(layout.CHANNELS_SIGNED), layout.key(layout.CHANNELS)
INDEX = layout.key(layout.plain_index(EDGE, DEVICE))


@pytest.fixture
def tree(tree: ChannelTree) -> ChannelTree:
    release(tree, b"one")
    return tree


def watched(tree: ChannelTree, before: Callable[[str, str], None]) -> ChannelTree:
    return replace(tree, store=WatchedStore(tree.store, before))


def media_type(tree: ChannelTree, key: str) -> str:
    assert isinstance(tree.store, MemoryStore)
    return tree.store.media_type(key)


# Reading


def test_no_channels_are_empty_ones() -> None:
    current = read_channels(make_tree())
    assert (current.etag, current.signed) == (None, SignedChannels(Channels(), number=0))


def test_a_document_is_read_with_the_etag_that_it_has(tree: ChannelTree) -> None:
    """Somebody else writes between a look at the etag and the reading: the next write would undo what they wrote."""
    others = iter(("first", "second"))

    def overtake(operation: str, key: str) -> None:
        if (operation, key) == ("open", SIGNED):
            for name in others:
                create_channel(tree, name)
                break

    current = read_channels(watched(tree, overtake))
    assert {"first", "second"} <= current.channels.keys()
    info = tree.store.head(SIGNED)
    assert info is not None
    assert current.etag == info.etag


def test_a_document_that_goes_meanwhile_is_none(tree: ChannelTree) -> None:
    def remove(operation: str, key: str) -> None:
        if (operation, key) == ("open", SIGNED):
            tree.store.delete([SIGNED])

    assert read_channels(watched(tree, remove)).etag is None


def test_a_damaged_document_is_named_with_what_to_do(tree: ChannelTree) -> None:
    tree.store.put_bytes(SIGNED, tree.signer.inline(Role.IMAGE_SIGNING, b"[]"), media_type=OPENPGP_MESSAGE)
    with pytest.raises(VerificationError, match="not an object") as damaged:
        read_channels(tree)
    assert (damaged.value.where, damaged.value.resolution) == (SIGNED, "restore it from a backup")
    tree.store.put_bytes(SIGNED, tree.signer.inline(Role.CDIMAGE, b"{}"), media_type=OPENPGP_MESSAGE)
    with pytest.raises(VerificationError) as damaged:
        read_channels(tree)
    assert damaged.value.where == SIGNED


def test_a_damaged_index_is_named_with_what_to_do(tree: ChannelTree) -> None:
    channels = channels_of(tree)
    key = layout.key(channels[EDGE].devices[DEVICE].index)
    change_object(tree.store, key, lambda content: content + b" ")
    with pytest.raises(VerificationError, match="not the one that the channel names") as damaged:
        read_index(tree.store, channels, EDGE, DEVICE)
    assert (damaged.value.where, damaged.value.resolution) == (key, "restore it from a backup")
    put = layout.key(layout.index(EDGE, DEVICE, hashlib.sha256(b"[]").hexdigest()))
    tree.store.put_bytes(put, b"[]", media_type=JSON)
    entry = replace(
        channels[EDGE].devices[DEVICE], index=layout.web_path(put), index_sha256=hashlib.sha256(b"[]").hexdigest()
    )
    with pytest.raises(VerificationError, match="not an object") as damaged:
        document.read_named_index(tree.store, entry)
    assert damaged.value.where == put


def test_what_is_not_there_yet_has_an_empty_index(tree: ChannelTree) -> None:
    channels = channels_of(tree)
    assert read_index(tree.store, channels, STABLE, DEVICE).images == ()
    assert read_index(tree.store, channels, EDGE, "pi_arm64").images == ()
    assert len(read_index(tree.store, channels, EDGE, DEVICE).images) == 1


# Writing


def test_only_the_document_that_was_read_is_replaced(tree: ChannelTree) -> None:
    for stale in (read_channels(make_tree()), read_channels(tree)):
        create_channel(tree, f"other-{stale.etag}")
        with pytest.raises(LostWriteError):
            put_channels(tree, stale, stale.signed)
    current = read_channels(tree)
    put = put_channels(tree, current, replace(current.signed, retired={STABLE: {DEVICE: 7}}))
    assert read_channels(tree) == put
    assert put.retired == {STABLE: {DEVICE: 7}}
    assert put.signed.number == current.signed.number + 1
    assert put.signed.expires == int((NOON + timedelta(days=90)).timestamp())


def test_everything_is_put_for_what_it_is(tree: ChannelTree) -> None:
    candidate = make_candidate(tree, b"two")
    assert media_type(tree, SIGNED) == media_type(tree, candidate.channels.uri) == OPENPGP_MESSAGE
    for key in keys(tree.store):
        if key.endswith(".json"):
            assert media_type(tree, key) == JSON
        elif key.endswith(".asc"):
            assert media_type(tree, key) == OPENPGP_SIGNATURE


def test_an_index_is_put_where_its_channel_has_its_own(tree: ChannelTree) -> None:
    put = put_index(tree, build_index([], STABLE, "pi_arm64", "then"))
    content = read_bytes(tree.store, put.uri) or b""
    assert put.uri == f"system-image/{STABLE}/pi_arm64/index-{hashlib.sha256(content).hexdigest()}.json"
    assert (put.media_type, put.size_bytes) == (JSON, len(content))


def test_a_candidates_document_is_put_once_and_again_for_another_index_or_key(tree: ChannelTree) -> None:
    one, two = (put_index(tree, build_index([], EDGE, DEVICE, when)) for when in ("then", "now"))
    put = put_candidate_channels(tree, EDGE, DEVICE, 2, one)
    message = read_bytes(tree.store, put.uri) or b""
    assert put.uri == layout.key(layout.candidate_channels(EDGE, DEVICE, 2))
    assert (put.sha256, put.size_bytes) == (hashlib.sha256(message).hexdigest(), len(message))
    assert put.media_type == OPENPGP_MESSAGE
    before = tree.store.head(put.uri)
    assert put_candidate_channels(tree, EDGE, DEVICE, 2, one) == put
    assert tree.store.head(put.uri) == before, "nothing was written"
    other = put_candidate_channels(tree, EDGE, DEVICE, 2, two)
    assert (other.uri, other.sha256 != put.sha256) == (put.uri, True)
    renewed = replace(tree, signer=MemorySigner(generation="next"))
    assert put_candidate_channels(renewed, EDGE, DEVICE, 2, two).sha256 != other.sha256
    document = SignedChannels.from_bytes(
        renewed.signer.open_inline(Role.IMAGE_SIGNING, read_bytes(tree.store, put.uri) or b""), ""
    )
    assert (document.kind, document.number) == ("candidate", 2)


# The pairs of 2015


def test_nothing_is_healed_where_there_is_nothing() -> None:
    empty = make_tree()
    assert not heal_pair(empty)
    assert keys(empty.store) == set()


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("damage", ["torn", "gone", "no signature", "another's signature"])
@pytest.mark.parametrize("key", [PLAIN, INDEX])
def test_a_pair_that_is_not_right_is_written_again(tree: ChannelTree, key: str, damage: str, thorough: bool) -> None:
    right = read_bytes(tree.store, key)
    if damage == "torn":
        change_object(tree.store, key, lambda content: content[:-1])
    elif damage == "another's signature":
        tree.store.put_bytes(
            f"{key}.asc", MemorySigner(generation="x").detached(Role.IMAGE_SIGNING, right or b""), media_type=""
        )
    else:
        tree.store.delete([key if damage == "gone" else f"{key}.asc"])
    is_seen = thorough or key == PLAIN
    assert heal_pair(tree, thorough=thorough) is is_seen
    if not is_seen:
        return
    assert read_bytes(tree.store, key) == right
    tree.signer.verify(Role.IMAGE_SIGNING, right or b"", read_bytes(tree.store, f"{key}.asc") or b"")
    assert (media_type(tree, key), media_type(tree, f"{key}.asc")) == (JSON, OPENPGP_SIGNATURE)
    assert not heal_pair(tree, thorough=thorough)


@pytest.mark.parametrize("content", [b"no JSON", None])
def test_where_channels_json_names_nothing_every_device_is_looked_at(tree: ChannelTree, content: bytes | None) -> None:
    tree.store.delete([INDEX, PLAIN])
    if content is not None:
        tree.store.put_bytes(PLAIN, content, media_type=JSON)
    assert heal_pair(tree, thorough=False)
    assert {INDEX, PLAIN} <= keys(tree.store)


def test_a_device_whose_entry_changed_is_looked_at(tree: ChannelTree) -> None:
    """As a command leaves it that was killed when it had moved the channels."""
    former = {key: read_bytes(tree.store, key) or b"" for key in (INDEX, PLAIN)}
    release(tree, b"two")
    newest = read_bytes(tree.store, INDEX)
    for key, content in former.items():
        tree.store.put_bytes(key, content, media_type=JSON)
    assert heal_pair(tree, thorough=False)
    assert read_bytes(tree.store, INDEX) == newest != former[INDEX]


def test_redirects_have_no_index_of_their_own_and_aliases_do(tree: ChannelTree) -> None:
    release(tree, b"own", STABLE)
    redirect_channel(tree, "a-old", EDGE)
    redirect_channel(tree, STABLE, EDGE, device=DEVICE)
    alias_channel(tree, "latest", EDGE)
    create_channel(tree, "zesty")
    tree.store.delete([key for key in keys(tree.store) if key.endswith("/index.json")])
    assert heal_pair(tree)
    assert {key for key in keys(tree.store) if key.endswith("/index.json")} == {
        INDEX,
        f"system-image/latest/{DEVICE}/index.json",
    }


def test_a_device_whose_index_is_gone_keeps_no_other_from_being_healed(tree: ChannelTree) -> None:
    release(tree, b"pi", EDGE, "pi_arm64")
    release(tree, b"other", STABLE)
    tree.store.delete([layout.key(channels_of(tree)[EDGE].devices[DEVICE].index)])
    others = {key for key in keys(tree.store) if key.endswith("/index.json")} - {INDEX}
    tree.store.delete([INDEX, PLAIN, *others])
    assert heal_pair(tree)
    assert {PLAIN, *others} <= keys(tree.store)
    assert INDEX not in keys(tree.store)


def test_channels_json_is_written_last_and_each_signature_before_its_document(tree: ChannelTree) -> None:
    """A killed command leaves what the next one sees."""
    puts: list[str] = []

    def note(operation: str, key: str) -> None:
        if operation == "put_bytes":
            puts.append(key)

    tree.store.delete([INDEX, f"{INDEX}.asc", PLAIN, f"{PLAIN}.asc"])
    heal_pair(watched(tree, note))
    assert puts == [f"{INDEX}.asc", INDEX, f"{PLAIN}.asc", PLAIN]


def test_a_change_while_the_pair_is_healed_is_healed_too(tree: ChannelTree) -> None:
    """The rival is killed when it has moved the channels, so that it does not heal the pair itself."""
    rival = iter(["late"])

    def overtake(operation: str, key: str) -> None:
        if (operation, key) == ("put_bytes", PLAIN):
            for name in rival:
                current = read_channels(tree)
                added = replace(current.signed, channels=Channels({**current.channels, name: current.channels[EDGE]}))
                put_channels(tree, current, added)

    tree.store.delete([PLAIN])
    assert heal_pair(watched(tree, overtake))
    assert json.loads(read_bytes(tree.store, PLAIN) or b"").keys() == channels_of(tree).keys() == {EDGE, "late"}


def test_channels_that_change_all_the_time_end_in_a_conflict(
    tree: ChannelTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def overtake(operation: str, key: str) -> None:
        if (operation, key) == ("open", PLAIN):
            looks.append(key)
            current = read_channels(tree)
            put_channels(tree, current, current.signed)

    monkeypatch.setattr(document, "_HEAL_ATTEMPTS", 3)
    with pytest.raises(ConflictError, match="keeps changing"):
        heal_pair(watched(tree, overtake))
    assert len(looks) == 3


def test_what_was_removed_is_remembered_in_the_next_document_too(tree: ChannelTree) -> None:
    remove_channel(tree, EDGE)
    create_channel(tree, "new")
    assert read_channels(tree).retired == {EDGE: {DEVICE: 1}}
    assert index_of(tree).images == ()
