"""A tree is checked alike in a store, in a folder and at a URL, and its pairs are repaired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from coreimage.client import SignatureError, primary_fingerprints
from coreimage.errors import InfrastructureError
from coreimage.host.process import Completed
from coreimage.http import Downloader
from coreimage.model import TEXT
from coreimage.storage import read_bytes
from coreimage.system_image.channels.changes import change_channels
from coreimage.system_image.channels.document import put_index
from coreimage.system_image.documents.channel_rules import with_index
from coreimage.system_image.verify.findings import Findings
from coreimage.system_image.verify.tree import repair_tree, verify_store, verify_web
from tests.harness.memory_signer import said_in
from tests.harness.memory_store import MemoryStore
from tests.unit.client.simulator import DEVICE, EDGE, NOW, TagVerify, Tree
from tests.unit.signing.gnupg import VALID, Gnupg, signature
from tests.unit.system_image.published import index_of, make_tree, release

PAYLOAD = "pool/ubuntu-full-0-2.tar.xz"


def gpgv(argv: Sequence[str | Path], *, stdout: IO[bytes] | None = None, **_: Any) -> Completed:
    """gpgv for the keys of the simulated tree."""
    words = [str(word) for word in argv]
    keyrings = [Path(words[number + 1]).read_bytes() for number, word in enumerate(words) if word == "--keyring"]
    made = Path(words[-1 if "--output" in words else -2]).read_bytes()
    try:
        if "--output" in words:
            Path(words[words.index("--output") + 1]).write_bytes(TagVerify().inline(made, keyrings, (), ""))
        else:
            TagVerify().detached(Path(words[-1]), made, keyrings, (), "")
    except SignatureError:
        status = ["NEWSIG", "BADSIG"]
    else:
        said = said_in(made) if "--output" in words else made
        fingerprint = said.decode(errors="replace").partition(" ")[0]
        assert fingerprint in frozenset[str]().union(*map(primary_fingerprints, keyrings))
        status = ["NEWSIG", "GOODSIG", VALID.format(fingerprint, fingerprint), "PLAINTEXT"]
    assert stdout is not None
    stdout.write("".join(f"[GNUPG:] {line}\n" for line in status).encode())
    return Completed(tuple(words), 0, "")


@pytest.fixture
def tree() -> Tree:
    return Tree()


def stored(tree: Tree) -> MemoryStore:
    store = MemoryStore()
    for name, content in tree.files.items():
        store.put_bytes(f"system-image/{name}", content, media_type=TEXT)
    return store


def in_store(tree: Tree, **options: Any) -> Findings:
    return verify_store(stored(tree), tree.archive_master, now=lambda: NOW, **options)


def test_a_whole_tree_is_silent_wherever_it_is(tree: Tree, tmp_path: Path) -> None:
    for name, content in tree.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = in_store(tree, run=gpgv)
    assert (found.findings, found.orphans) == ((), ())
    assert found.checked > 20
    for where in (tmp_path, tmp_path.as_uri()):
        looked = verify_web(where, tree.archive_master, fetch=Downloader(), run=gpgv, now=lambda: NOW)
        assert looked.findings == (), looked
        assert looked == found
    (tmp_path / "pool" / "left.tar.xz").write_bytes(b"")
    seen, unseen = (
        verify_web(where, tree.archive_master, fetch=Downloader(), run=gpgv, now=lambda: NOW)
        for where in (tmp_path, tmp_path.as_uri())
    )
    assert (seen.orphans, unseen.orphans) == (("pool/left.tar.xz",), ()), "a URL cannot be listed"


def test_files_of_the_store_beside_the_tree_are_none_of_it(tree: Tree) -> None:
    store = stored(tree)
    store.put_bytes("import-cache/x", b"", media_type=TEXT)
    store.put_bytes("system-image/pool/left.tar.xz", b"", media_type=TEXT)
    found = verify_store(store, tree.archive_master, run=gpgv, now=lambda: NOW)
    assert found.orphans == ("pool/left.tar.xz",)


def test_what_is_wrong_is_found_in_a_store(tree: Tree) -> None:
    tree.put(PAYLOAD, b"payload full 3")
    tree.put(f"{EDGE}/{DEVICE}/index.json", b"{}", by="stranger")
    assert [each.where for each in in_store(tree, run=gpgv).errors] == [f"{EDGE}/{DEVICE}/index.json", PAYLOAD]
    tree.now = NOW + 91 * 86400
    late = verify_store(stored(tree), tree.archive_master, run=gpgv, now=lambda: tree.now)
    assert "channels.json.gpg" in [each.where for each in late.errors], "what has ended by then"


def test_builds_are_checked_where_the_key_is_given(tree: Tree) -> None:
    class Both(Gnupg):
        """The tree's keys, and those of builds."""

        def __call__(self, argv: Sequence[str | Path], **options: Any) -> Completed:
            of_build = any(
                Path(argv[n + 1]).read_bytes() == b"cd" for n, word in enumerate(argv) if word == "--keyring"
            )
            return super().__call__(argv, **options) if of_build else gpgv(argv, **options)

    store = stored(tree)
    store.put_bytes("cdimage/p/13/daily/20261123/SHA256SUMS", b"", media_type=TEXT)
    store.put_bytes("cdimage/p/13/daily/20261123/SHA256SUMS.gpg", signature("other", b""), media_type=TEXT)
    without = verify_store(store, tree.archive_master, run=Both(), now=lambda: NOW)
    found = verify_store(store, tree.archive_master, cdimage_key=b"cd", run=Both(), now=lambda: NOW)
    assert without.findings == ()
    assert [each.where for each in found.errors] == ["cdimage/p/13/daily/20261123/SHA256SUMS"]
    assert found.checked == without.checked


def test_a_store_that_cannot_be_read_is_no_finding(tree: Tree) -> None:
    class Down(MemoryStore):
        def open(self, key: str, **options: Any) -> Any:
            raise InfrastructureError("503")

    with pytest.raises(InfrastructureError, match="503"):
        verify_store(Down(), tree.archive_master, run=gpgv, now=lambda: NOW)


def test_torn_pairs_are_repaired() -> None:
    tree = make_tree()
    release(tree, b"one")
    assert not repair_tree(tree)
    whole = read_bytes(tree.store, "system-image/channels.json")
    tree.store.put_bytes("system-image/channels.json", b"torn", media_type=TEXT)
    assert repair_tree(tree)
    assert read_bytes(tree.store, "system-image/channels.json") == whole
    assert not repair_tree(tree)


def test_an_index_that_an_earlier_version_made_is_repaired() -> None:
    tree = make_tree()
    for content in (b"one", b"two", b"three"):
        release(tree, content)
    index = index_of(tree)
    earlier = replace(index, images=tuple(replace(image, minversion=0) for image in index.images))
    sha256 = put_index(tree, earlier).sha256
    change_channels(tree, lambda current: with_index(current.channels, EDGE, DEVICE, sha256))
    assert repair_tree(tree)
    assert index_of(tree).images == index.images
    assert not repair_tree(tree)
