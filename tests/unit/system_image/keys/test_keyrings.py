"""Who is trusted is published by who may say so, in time, and is never left torn."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from coreimage.client import primary_fingerprints, read_keyring
from coreimage.errors import HostError, UsageError, VerificationError
from coreimage.signing import Role, make_keyring
from coreimage.system_image.documents import layout
from coreimage.system_image.keys.keyrings import (
    SIGNED_BY,
    blacklisted_keys,
    heal_keyrings,
    make_wanted_keyring,
    publish_keyrings,
    publish_signed_keyring,
    published_keys,
    put_keyring,
    read_object,
    unsigned_keyrings,
)
from coreimage.system_image.keys.masters import export_keyrings, import_keyrings, sign_keyrings
from coreimage.system_image.server import ChannelTree
from tests.harness.memory_signer import MemorySigner
from tests.unit.system_image.published import NOON, Clock

KINDS = list(SIGNED_BY)
OFFLINE = MemorySigner(held=(Role.IMAGE_SIGNING, Role.CDIMAGE))
"""Both masters are elsewhere."""


def key(kind: str) -> str:
    return layout.key(layout.keyring(kind))


def is_signed(tree: ChannelTree, kind: str) -> bool:
    tarball, signature = read_object(tree.store, key(kind)), read_object(tree.store, f"{key(kind)}.asc")
    assert tarball is not None
    assert signature is not None
    try:
        tree.signer.verify(SIGNED_BY[kind], tarball, signature)
    except VerificationError:
        return False
    return True


def test_keyrings_are_published_once_and_signed_by_who_trusts_them(tree: ChannelTree) -> None:
    assert publish_keyrings(tree) == KINDS
    assert all(is_signed(tree, kind) for kind in KINDS)
    assert publish_keyrings(tree) == []
    for kind in KINDS[:-1]:
        assert published_keys(tree, kind) == tree.signer.public_key(Role(kind))
    assert blacklisted_keys(tree.store) == b""


def test_only_the_keyring_of_image_signing_ends_and_is_renewed_a_year_before(tree: ChannelTree, clock: Clock) -> None:
    publish_keyrings(tree)
    expiries = {}
    for kind in KINDS:
        tarball = read_object(tree.store, key(kind)) or b""
        expiries[kind] = read_keyring(tarball, kind, now=0).expiry
    end = (NOON + timedelta(days=730)).timestamp()
    assert expiries == {"archive-master": None, "image-master": None, "image-signing": end, "blacklist": None}
    clock.pass_(days=365, seconds=-1)
    assert publish_keyrings(tree) == []
    clock.pass_(seconds=1)
    assert publish_keyrings(tree) == ["image-signing"]


def test_keyrings_of_other_keys_are_published_again_and_the_blacklist_is_kept(tree: ChannelTree) -> None:
    publish_keyrings(tree)
    stolen = MemorySigner(generation="stolen").public_key(Role.IMAGE_SIGNING)
    tarball = make_keyring("blacklist", stolen)
    put_keyring(tree, "blacklist", tarball, tree.signer.detached(Role.IMAGE_MASTER, tarball))
    other = replace(tree, signer=MemorySigner(generation="second"))
    owner = tree.signer.fingerprint(Role.ARCHIVE_MASTER)
    assert publish_keyrings(other, replaced=owner) == KINDS
    assert primary_fingerprints(blacklisted_keys(tree.store)) == primary_fingerprints(stolen)


def test_a_blacklist_that_cannot_be_read_is_not_replaced(tree: ChannelTree) -> None:
    publish_keyrings(tree)
    tree.store.put_bytes(key("blacklist"), b"damaged", media_type="text/plain")
    with pytest.raises(VerificationError, match="blacklist"):
        publish_keyrings(tree)


def test_without_the_masters_what_clients_accept_stays(tree: ChannelTree, clock: Clock) -> None:
    offline = replace(tree, signer=OFFLINE)
    with pytest.raises(HostError):
        publish_keyrings(offline)
    publish_keyrings(tree)
    clock.pass_(days=400)
    assert publish_keyrings(offline) == []
    clock.pass_(days=400)
    with pytest.raises(HostError):
        publish_keyrings(offline)


def test_what_a_master_elsewhere_must_sign_goes_there_and_comes_back(
    tree: ChannelTree, clock: Clock, tmp_path: Path
) -> None:
    offline, medium = replace(tree, signer=OFFLINE), tmp_path / "medium"
    publish_keyrings(tree)
    assert export_keyrings(offline, medium).keyrings == ()
    assert not medium.exists()
    clock.pass_(days=400)
    assert list(unsigned_keyrings(offline)) == ["image-signing"]
    exported = export_keyrings(offline, medium)
    assert (exported.keyrings, exported.signed) == (("image-signing",), False)
    with pytest.raises(UsageError, match="not signed yet"):
        import_keyrings(offline, medium)
    with pytest.raises(HostError):
        sign_keyrings(medium, signer=OFFLINE)
    assert sign_keyrings(medium, signer=MemorySigner()).signed
    assert import_keyrings(offline, medium).keyrings == ("image-signing",)
    assert is_signed(tree, "image-signing")
    assert publish_keyrings(offline) == []
    assert list(unsigned_keyrings(offline)) == []


def test_a_medium_that_holds_something_else_is_refused(tree: ChannelTree, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"to-sign\.json"):
        import_keyrings(tree, tmp_path / "nothing")
    (tmp_path / "to-sign.json").write_text(json.dumps({"keyrings": ["image-signing", "passwords"]}))
    with pytest.raises(VerificationError, match="do not exist"):
        sign_keyrings(tmp_path, signer=tree.signer)


def test_a_keyring_from_elsewhere_must_be_the_right_one(tree: ChannelTree) -> None:
    publish_keyrings(tree)
    master = tree.signer
    right = make_wanted_keyring(tree, "image-signing")
    signature = master.detached(Role.IMAGE_MASTER, right)
    with pytest.raises(VerificationError, match="not right"):
        publish_signed_keyring(tree, "image-signing", right, master.detached(Role.ARCHIVE_MASTER, right))
    with pytest.raises(VerificationError, match="type"):
        publish_signed_keyring(tree, "blacklist", right, signature)
    others = make_keyring("image-signing", MemorySigner(generation="second").public_key(Role.IMAGE_SIGNING))
    with pytest.raises(VerificationError, match="keys that count now"):
        publish_signed_keyring(tree, "image-signing", others, master.detached(Role.IMAGE_MASTER, others))
    assert not publish_signed_keyring(tree, "image-signing", right, signature), "it is there already"


def test_a_keyring_beside_anothers_signature_is_healed(tree: ChannelTree, clock: Clock) -> None:
    publish_keyrings(tree)
    before = read_object(tree.store, f"{key('image-signing')}.asc")
    clock.pass_(days=400)
    publish_keyrings(tree)
    after = read_object(tree.store, f"{key('image-signing')}.asc")
    assert before is not None
    assert before != after
    tree.store.put_bytes(f"{key('image-signing')}.asc", before, media_type="text/plain")
    assert not is_signed(tree, "image-signing")
    assert heal_keyrings(tree.store)
    assert is_signed(tree, "image-signing")
    assert not heal_keyrings(tree.store)


def test_keys_that_no_master_signed_are_not_believed(tree: ChannelTree) -> None:
    assert published_keys(tree, "image-signing") == b""
    publish_keyrings(tree)
    tree.store.put_bytes(f"{key('image-signing')}.asc", b"signature x y", media_type="text/plain")
    assert published_keys(tree, "image-signing") == b""
