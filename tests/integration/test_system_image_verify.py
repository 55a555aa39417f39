"""`verify_tree` over real trees: what is whole is silent, and each thing that is spoilt is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coreimage.http import Downloader
from coreimage.model import TEXT
from coreimage.signing import GnupgSigner, Role, Signer, make_keyring
from coreimage.storage import Store
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import (
    ChannelTree,
    Findings,
    WaitingCandidate,
    heal_keyrings,
    publish_keyrings,
    release_candidate,
    renew_channels,
    repair_tree,
    verify_store,
    verify_web,
)
from coreimage.system_image.web import client_errors, open_server
from tests.harness.kill import for_each_kill_point
from tests.harness.server import serve
from tests.harness.trees import CHANNEL, DEVICE, NOW, RememberingSigner, imported, now, released


def top(signer: Signer) -> bytes:
    return make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))


def look(store: DirectoryStore, signer: Signer, **options: Any) -> Findings:
    options = {"now": NOW.timestamp, **options}
    return verify_store(store, top(signer), cdimage_key=signer.public_key(Role.CDIMAGE), **options)


def wrong(found: Findings) -> list[str]:
    return [finding.where for finding in found.errors]


def test_whole_trees_are_silent(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    released(store, signer, "20261124", b"two")
    waiting = imported(store, signer, "20261125", b"three")
    found = look(store, signer)
    assert (found.findings, found.orphans) == ((), ())
    assert found.candidates == (WaitingCandidate(channel=CHANNEL, device=DEVICE, version=3),)
    assert found.checked > 30
    assert verify_web(tree, top(signer), fetch=Downloader(), now=NOW.timestamp) == found
    with serve(tree) as server:
        remote = verify_web(server.url, top(signer), fetch=Downloader(), now=NOW.timestamp)
    assert (remote.findings, remote.orphans, remote.candidates) == ((), (), ())
    release_candidate(ChannelTree(store, signer, now), waiting)
    assert look(store, signer).candidates == ()


def test_a_tree_of_only_a_candidate(store: DirectoryStore, signer: GnupgSigner) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    imported(store, signer)
    found = look(store, signer)
    assert wrong(found) == ["channels.json"]
    assert [candidate.version for candidate in found.candidates] == [1]


def test_what_failed_candidates_left_is_an_orphan(store: DirectoryStore, signer: GnupgSigner) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    imported(store, signer, text=b"never released")
    assert released(store, signer, "20261124", b"two") == 2
    found = look(store, signer)
    assert (found.findings, found.candidates) == ((), ())
    assert any(name.startswith("pool/ubuntu-") for name in found.orphans)
    assert any(name.endswith("version-1.tar.xz") for name in found.orphans)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _one(tree: Path, pattern: str) -> Path:
    (found,) = tree.glob(pattern)
    return found


EDGE = f"{CHANNEL}/{DEVICE}"
SPOILT: dict[str, Callable[[Path], object]] = {
    "pool/device-*.tar.xz": _flip,
    "pool/ubuntu-*.tar.xz": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "pool/ubuntu-*.json": _flip,
    f"{EDGE}/version-1.tar.xz": Path.unlink,
    f"{EDGE}/version-1.json": _flip,
    f"{EDGE}/index.json": Path.unlink,
    f"{EDGE}/index-*.json": _flip,
    "channels.json": _flip,
    "channels.json.gpg": _flip,
    "gpg/image-master.tar.xz": _flip,
    "gpg/archive-master.tar.xz": _flip,
    "gpg/blacklist.tar.xz": _flip,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, signer: GnupgSigner) -> Path:
    root = tmp_path_factory.mktemp("whole")
    publish_keyrings(ChannelTree(DirectoryStore(root), signer, now))
    released(DirectoryStore(root), signer)
    return root


@pytest.mark.parametrize("pattern", SPOILT)
def test_each_spoilt_object_is_named(pattern: str, whole: Path, signer: GnupgSigner) -> None:
    spoilt = _one(whole / "system-image", pattern)
    name, good = spoilt.relative_to(whole / "system-image").as_posix(), spoilt.read_bytes()
    SPOILT[pattern](spoilt)
    try:
        assert wrong(look(DirectoryStore(whole), signer)) == [name]
    finally:
        spoilt.write_bytes(good)
    assert wrong(look(DirectoryStore(whole), signer)) == []


@pytest.mark.parametrize("pattern", ["channels.json*.asc", f"{EDGE}/index.json.asc", "pool/ubuntu-*.xz.asc"])
def test_a_missing_signature_is_named(pattern: str, whole: Path, signer: GnupgSigner) -> None:
    spoilt = _one(whole / "system-image", pattern)
    name, good = spoilt.relative_to(whole / "system-image").as_posix(), spoilt.read_bytes()
    spoilt.unlink()
    try:
        assert wrong(look(DirectoryStore(whole), signer)) == [name]
    finally:
        spoilt.write_bytes(good)


def test_torn_pairs_are_repaired(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    for name in ("channels.json", f"{EDGE}/index.json.asc"):
        (tree / name).write_bytes(b"torn")
    found = look(store, signer)
    assert wrong(found) == ["channels.json", f"{EDGE}/index.json"]
    assert all("--repair" in finding.resolution for finding in found.errors)
    assert repair_tree(ChannelTree(store, signer, now))
    assert look(store, signer).findings == ()
    assert not repair_tree(ChannelTree(store, signer, now))


def test_a_renewal_of_keyrings_killed_anywhere(whole: Path, signer: GnupgSigner, tmp_path: Path) -> None:
    work, remembering = tmp_path / "work", RememberingSigner(signer)
    later = NOW + timedelta(days=400)

    def fresh() -> Store:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(whole, work)
        renew_channels(ChannelTree(DirectoryStore(work), remembering, lambda: later))
        return DirectoryStore(work)

    def renew(store: Store) -> None:
        publish_keyrings(ChannelTree(store, signer, lambda: later))

    def readable(_: Store) -> None:
        url = (work / "system-image").as_uri()
        with client_errors():
            opened = open_server(url, top(signer), fetch=Downloader(), now=later.timestamp)
            assert opened.index(CHANNEL, DEVICE).images

    def repaired_without_keys(store: Store) -> None:
        readable(store)
        torn = look(DirectoryStore(work), signer).errors
        assert all("--repair" in finding.resolution for finding in torn)
        heal_keyrings(store=store)
        assert look(DirectoryStore(work), signer).findings == ()

    assert for_each_kill_point(fresh, renew, repaired_without_keys) == 3


@pytest.mark.spoils
def test_a_version_tarball_that_says_something_else(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    """Rightly signed throughout; only its content gives it away."""
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    channels = json.loads((tree / "channels.json").read_bytes())
    entry = channels[CHANNEL]["devices"][DEVICE]
    index = json.loads((tree / entry["index"].lstrip("/")).read_bytes())
    index["images"][0]["version_detail"] = "version=other"
    path = f"{EDGE}/index.json"
    (tree / path).write_text(json.dumps(index))
    (tree / f"{path}.asc").write_bytes(signer.detached_file(Role.IMAGE_SIGNING, tree / path))
    channels[CHANNEL]["devices"][DEVICE] = {"index": f"/{path}"}
    content = json.dumps(channels).encode()
    (tree / "channels.json.gpg").write_bytes(signer.inline(Role.IMAGE_SIGNING, content))
    (tree / "channels.json").write_bytes(content)
    (tree / "channels.json.asc").write_bytes(signer.detached(Role.IMAGE_SIGNING, content))
    (finding,) = look(store, signer).errors
    assert finding.where == f"{EDGE}/version-1.tar.xz"
    assert "version_detail" in finding.problem


def test_the_end_of_a_keyring_is_announced(whole: Path, signer: GnupgSigner) -> None:
    later = NOW + timedelta(days=700)
    keyring, channels = look(DirectoryStore(whole), signer, now=later.timestamp).findings
    assert (keyring.severity, keyring.where) == ("warning", "gpg/image-signing.tar.xz")
    assert (channels.severity, channels.where) == ("error", "channels.json.gpg")
    ended = NOW + timedelta(days=731)
    assert wrong(look(DirectoryStore(whole), signer, now=ended.timestamp)) == ["gpg/image-signing.tar.xz"]


@pytest.mark.parametrize(("days", "severity"), [(59, None), (61, "warning"), (91, "error")])
def test_the_end_of_the_channels_is_announced(
    days: int, severity: str | None, whole: Path, signer: GnupgSigner
) -> None:
    later = NOW + timedelta(days=days)
    found = look(DirectoryStore(whole), signer, now=later.timestamp).findings
    assert [(finding.severity, finding.where) for finding in found] == (
        [(severity, "channels.json.gpg")] if severity else []
    )


def test_published_builds(store: DirectoryStore, signer: GnupgSigner) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    folder = "cdimage/p/1/daily/20261123"
    files = {"a.tar.gz": b"a", "b.manifest": b"b"}
    digests = {"a.tar.gz": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", "b.manifest": "0" * 64}
    sums = "".join(f"{digest} *{name}\n" for name, digest in digests.items()).encode()
    for name, content in {**files, "stray": b"", ".marked_good": b"a.tar.gz\n", "SHA256SUMS": sums}.items():
        store.put_bytes(f"{folder}/{name}", content, media_type=TEXT)
    signature = signer.detached(Role.CDIMAGE, sums)
    store.put_bytes(f"{folder}/SHA256SUMS.gpg", signature, media_type=TEXT)
    found = look(store, signer)
    assert (wrong(found), found.orphans) == ([f"{folder}/b.manifest"], (f"{folder}/stray",))
    store.delete([f"{folder}/a.tar.gz"])
    assert wrong(look(store, signer)) == [f"{folder}/a.tar.gz", f"{folder}/b.manifest"]
    store.put_bytes(f"{folder}/SHA256SUMS", sums + b"x", media_type=TEXT)
    assert wrong(look(store, signer)) == [f"{folder}/SHA256SUMS"]
