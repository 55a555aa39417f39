"""A store's archive-master is never replaced by accident: every device that trusts it would be cut off."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coreimage.cli.keys import make_missing_keys_of
from coreimage.cli.settings import Settings
from coreimage.client import primary_fingerprints, read_keyring
from coreimage.errors import UsageError
from coreimage.signing import Role
from coreimage.storage import ObjectInfo
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image.documents import layout
from coreimage.system_image.keys.keyrings import SIGNED_BY, publish_keyrings, publish_signed_keyring, read_object
from coreimage.system_image.keys.owner import archive_masters_of, require_own_store
from coreimage.system_image.server import ChannelTree
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore

TOP, NEXT = (layout.key(layout.keyring(kind)) for kind in ("archive-master", "image-master"))
STRANGER = MemorySigner(generation="stranger")
FINGERPRINT = bytes(range(20))
SIGNATURE = b"\x88\x1d\x04\x00\x01\x0a\x00\x17" + bytes([22, 33, 4]) + FINGERPRINT + b"\x00\x00\x00"
"""A signature packet that names its maker (RFC 9580 §5.2.3)."""


@pytest.fixture
def stranger(tree: ChannelTree) -> ChannelTree:
    """The same store, and other keys."""
    publish_keyrings(tree)
    return replace(tree, signer=STRANGER)


def test_other_keys_are_refused_and_nothing_is_written(tree: ChannelTree, stranger: ChannelTree) -> None:
    before = {info.key: info.etag for info in tree.store.list()}
    ours, theirs = (each.signer.fingerprint(Role.ARCHIVE_MASTER) for each in (tree, stranger))
    with pytest.raises(UsageError, match=f"has the archive-master {ours}, this machine {theirs}") as refused:
        publish_keyrings(stranger)
    assert "COREIMAGE_KEYS" in refused.value.resolution
    assert {info.key: info.etag for info in tree.store.list()} == before


def test_keyrings_signed_elsewhere_are_refused_too(stranger: ChannelTree) -> None:
    for kind, role in SIGNED_BY.items():
        with pytest.raises(UsageError, match="archive-master"):
            publish_signed_keyring(stranger, kind, b"", STRANGER.detached(role, b""))


def test_an_archive_master_is_replaced_when_its_fingerprint_is_typed(tree: ChannelTree, stranger: ChannelTree) -> None:
    ours, theirs = (each.signer.fingerprint(Role.ARCHIVE_MASTER) for each in (tree, stranger))
    with pytest.raises(UsageError, match=f"is not the archive-master of this store: it is {ours}"):
        publish_keyrings(stranger, replaced=theirs)
    assert archive_masters_of(tree.store) == {ours}
    publish_keyrings(stranger, replaced=ours)
    assert archive_masters_of(tree.store) == {theirs}


def test_a_fresh_store_has_nothing_to_replace(tree: ChannelTree) -> None:
    assert archive_masters_of(tree.store) == frozenset()
    require_own_store(tree.store, tree.signer)
    with pytest.raises(UsageError, match="it has none yet"):
        require_own_store(tree.store, tree.signer, replaced="0" * 40)


@pytest.mark.parametrize("damage", [None, b"damaged", b"x" * (3 << 20)])
def test_without_its_keyring_the_signature_below_it_tells_whose_store_it_is(
    tree: ChannelTree, damage: bytes | None
) -> None:
    if damage is not None:
        tree.store.put_bytes(TOP, damage, media_type="")
    assert archive_masters_of(tree.store) == frozenset()
    tree.store.put_bytes(f"{NEXT}.asc", SIGNATURE, media_type="")
    assert archive_masters_of(tree.store) == {FINGERPRINT.hex().upper()}
    with pytest.raises(UsageError, match="has the archive-master 000102"):
        publish_keyrings(tree)


class _Race(MemoryStore):
    """A fresh store into which another machine publishes just before our keyring is put."""

    other: ChannelTree | None = None

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        if key == TOP and self.other is not None:
            other, self.other = self.other, None
            publish_keyrings(other)
        return super().put_bytes(key, content, media_type=media_type, if_absent=if_absent, if_match=if_match)


def test_of_two_machines_that_begin_a_store_at_the_same_time_one_is_refused(tree: ChannelTree) -> None:
    store = _Race()
    ours, theirs = replace(tree, store=store), replace(tree, store=store, signer=STRANGER)
    store.other = theirs
    with pytest.raises(UsageError, match="archive-master"):
        publish_keyrings(ours)
    tarball = read_object(store, TOP) or b""
    keys = primary_fingerprints(read_keyring(tarball, "archive-master", now=0).keys)
    assert keys == {STRANGER.fingerprint(Role.ARCHIVE_MASTER)}


def test_a_build_from_another_folder_makes_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path / "store")
    publish_keyrings(ChannelTree(store, MemorySigner(), lambda: datetime(2026, 11, 23, tzinfo=UTC)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("COREIMAGE_KEYS", raising=False)
    settings = Settings(store=str(tmp_path / "store"), project=None, as_json=False, debug=False, quiet=False)
    with pytest.raises(UsageError, match="this machine has none"):
        make_missing_keys_of(settings)
    assert list((tmp_path / "elsewhere").iterdir()) == []
