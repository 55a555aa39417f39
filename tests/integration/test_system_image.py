"""The whole chain over a small build, with real GnuPG and xz: import, candidate, release, and what clients read."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from coreimage.client import Image, Session
from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.host.process import run
from coreimage.http import Downloader
from coreimage.model import TAR_GZ, TEXT, ArtifactRef, Candidate, PublishedBuild
from coreimage.signing import GnupgSigner, Role, Signer, make_keyring
from coreimage.storage import put_blob_bytes
from coreimage.storage.directory import DirectoryStore
from coreimage.storage.store import Store
from coreimage.system_image import ChannelTree, heal_pair, import_build, publish_keyrings, release_candidate
from coreimage.system_image.channels.document import put_channels, read_channels
from coreimage.system_image.web import client_errors, open_server
from tests.harness.kill import for_each_kill_point
from tests.harness.strict_client import RefusedError, check_tree
from tests.harness.trees import (
    CHANNEL,
    DEVICE,
    NOW,
    RememberingSigner,
    imported,
    now,
    published,
    released,
    rootfs_tarball,
)


def session(tree: Path, signer: Signer, **options: Any) -> Session:
    archive_master = make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))
    return open_server(tree.as_uri(), archive_master, fetch=Downloader(), now=NOW.timestamp, **options)


def read_versions(tree: Path, signer: Signer, **options: Any) -> list[int]:
    with client_errors():
        images = session(tree, signer, **options).index(CHANNEL, DEVICE).images
        return [image.version for image in images if image.type == "full"]


def download(tree: Path, signer: Signer, folder: Path, **options: Any) -> tuple[Image, tuple[Path, ...]]:
    folder.mkdir(exist_ok=True)
    with client_errors():
        opened = session(tree, signer, **options)
        image = opened.select(CHANNEL, DEVICE)
        return image, opened.download(CHANNEL, DEVICE, image, folder)


def strict(tree: Path, signer: Signer) -> dict[tuple[str, str], list[int]]:
    return check_tree(tree, make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER)))


def _candidate_path(candidate: Candidate) -> str:
    return candidate.channels.uri.removeprefix("system-image/")


def test_candidate_is_read_before_the_channel_knows_it(
    store: DirectoryStore, signer: GnupgSigner, tree: Path, tmp_path: Path
) -> None:
    assert publish_keyrings(ChannelTree(store, signer, now)) == [
        "archive-master",
        "image-master",
        "image-signing",
        "blacklist",
    ]
    candidate = imported(store, signer)
    assert candidate.version_detail == "ubuntu=20261123,raw-device=20261123,version=1"
    with pytest.raises(NotFoundError):
        read_versions(tree, signer)
    image, files = download(tree, signer, tmp_path / "files", channels_path=_candidate_path(candidate))
    assert image.version == 1
    assert [path.name.split("-")[0] for path in files] == ["ubuntu", "device", "version"]

    release_candidate(ChannelTree(store, signer, now), candidate)
    assert read_versions(tree, signer) == [1]
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1]}

    assert released(store, signer, "20261124", b"two") == 2
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1, 2]}
    index = json.loads((tree / CHANNEL / DEVICE / "index.json").read_bytes())
    devices = [image["files"][1]["path"] for image in index["images"]]
    assert devices[0] == devices[1], "an unchanged device tarball is one pool file"


def test_rootfs_is_customised(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    candidate = imported(store, signer)
    with tarfile.open(tree.parent / candidate.files[0].uri) as tar:
        members = {member.name: member for member in tar}
    assert "system/SWAP.swap" not in members
    assert list(members)[-3:] == ["system/writable", "system/usr/lib/modules", "system/etc/mtab"]
    assert members["system/usr/bin/ping6"].linkname == "system/usr/bin/ping"
    assert "SCHILY.xattr.security.capability" in members["system/usr/bin/ping"].pax_headers
    assert members["system/writable"].mtime == 1_700_000_000


def test_publishing_keyrings_again_changes_nothing_until_they_near_their_end(
    store: DirectoryStore, signer: GnupgSigner
) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    before = {info.key: info.etag for info in store.list("system-image/gpg/")}
    assert publish_keyrings(ChannelTree(store, signer, now)) == []
    assert {info.key: info.etag for info in store.list("system-image/gpg/")} == before
    assert publish_keyrings(ChannelTree(store, signer, lambda: NOW + timedelta(days=400))) == ["image-signing"]


def test_same_inputs_give_the_same_candidate_and_release_is_idempotent(
    store: DirectoryStore, signer: GnupgSigner, tree: Path
) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    candidate = imported(store, signer)
    assert imported(store, signer) == candidate
    release_candidate(ChannelTree(store, signer, now), candidate)
    before = {info.key: info.etag for info in store.list("system-image/")}
    release_candidate(ChannelTree(store, signer, now), candidate)
    assert {info.key: info.etag for info in store.list("system-image/")} == before
    assert released(store, signer) == 1
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1]}


def test_number_of_a_failed_candidate_is_not_used_again(store: DirectoryStore, signer: GnupgSigner) -> None:
    assert imported(store, signer, "20261123").version == 1
    assert released(store, signer, "20261124", b"two") == 2
    assert imported(store, signer, "20261123").version == 3, "and a version that was passed over cannot come back"


def test_older_candidate_is_refused(store: DirectoryStore, signer: GnupgSigner) -> None:
    first = imported(store, signer, "20261123")
    released(store, signer, "20261124", b"two")
    with pytest.raises(ConflictError, match="not newer"):
        release_candidate(ChannelTree(store, signer, now), first)


def test_racing_releases_lose_no_version(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    devices = ["generic_amd64", "pc_amd64", "azure_amd64"]
    build = published(store, signer)
    more = [
        file.model_copy(update={"name": file.name.replace(".device", f".{name}.device"), "device": f"{name}_amd64"})
        for name in ("pc", "azure")
        for file in build.files
        if file.role == "device"
    ]
    sums = "".join(f"{file.artifact.sha256} *{file.name}\n" for file in (*build.files, *more)).encode()
    build = build.model_copy(
        update={
            "files": (*build.files, *more),
            "checksums": put_blob_bytes(store, sums, TEXT),
            "signature": put_blob_bytes(store, signer.detached(Role.CDIMAGE, sums), TEXT),
        }
    )
    candidates = [import_build(ChannelTree(store, signer, now), build, CHANNEL, name, run=run) for name in devices]
    threads = [
        threading.Thread(target=release_candidate, args=(ChannelTree(store, signer, now), candidate))
        for candidate in candidates
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert strict(tree, signer) == {(CHANNEL, device): [1] for device in devices}


def test_release_rebuilds_the_index_when_the_channel_moved(
    store: DirectoryStore, signer: GnupgSigner, tree: Path
) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    first, second = imported(store, signer, "20261123"), imported(store, signer, "20261124", b"two")
    release_candidate(ChannelTree(store, signer, now), first)
    release_candidate(ChannelTree(store, signer, now), second)
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1, 2]}


def test_a_version_comes_with_a_delta_from_the_one_before(
    store: DirectoryStore, signer: GnupgSigner, tree: Path
) -> None:
    """The content has the same size and time: only looking at it shows that it changed."""
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer, "20261123", b"one")
    released(store, signer, "20261124", b"two")
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1, 2]}
    images = json.loads((tree / CHANNEL / DEVICE / "index.json").read_bytes())["images"]
    assert [(image["type"], image.get("base"), image.get("minversion")) for image in images] == [
        ("full", None, 1),
        ("full", None, None),
        ("delta", 1, None),
    ]
    rootfs, version = (tree / file["path"].lstrip("/") for file in images[-1]["files"])
    assert version.name == "version-2.tar.xz"
    with tarfile.open(rootfs) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]
    assert files == {"removed": b"system/etc/issue\n", "system/etc/issue": b"two"}


def test_killed_at_every_store_call(signer: GnupgSigner, tmp_path: Path) -> None:
    remembering = RememberingSigner(signer)
    start = DirectoryStore(tmp_path / "start")
    publish_keyrings(ChannelTree(start, signer, now))
    released(start, signer, "20261123")
    second = published(start, signer, "20261124", b"two")
    work, www = tmp_path / "work", tmp_path / "work" / "system-image"

    def fresh() -> Store:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(tmp_path / "start", work)
        return DirectoryStore(work)

    def publish(to: Store) -> None:
        candidate = import_build(ChannelTree(to, remembering, now), second, CHANNEL, DEVICE, run=run)
        release_candidate(ChannelTree(to, remembering, now), candidate)

    def readable(_: Store) -> None:
        assert read_versions(www, signer) in ([1], [1, 2])

    def finished(_: Store) -> None:
        assert strict(www, signer) == {(CHANNEL, DEVICE): [1, 2]}
        assert not (www / CHANNEL / DEVICE / "version-3.json").exists()

    assert for_each_kill_point(fresh, publish, readable, finished=finished) > 10


def test_eight_importers_and_releases_of_one_device_at_once(
    store: DirectoryStore, signer: GnupgSigner, tree: Path
) -> None:
    """Eight builds at once: each gets a version of its own; what is released is whole whenever a reader looks."""
    publish_keyrings(ChannelTree(store, signer, now))
    builds = [published(store, signer, f"2026112{number}", b"%d" % number) for number in range(1, 9)]
    gate = threading.Barrier(len(builds))
    over = threading.Event()

    def import_at_once(build: PublishedBuild) -> Candidate:
        gate.wait()
        return import_build(ChannelTree(store, signer, now), build, CHANNEL, DEVICE, run=run)

    def release_at_once(candidate: Candidate) -> int:
        gate.wait()
        try:
            return release_candidate(ChannelTree(store, signer, now), candidate).version
        except ConflictError:
            return 0

    def look() -> list[list[int]]:
        seen: list[list[int]] = []
        while not over.is_set():
            with suppress(NotFoundError):
                seen.append(read_versions(tree, signer))
        return seen

    with ThreadPoolExecutor(len(builds) + 1) as pool:
        reader = pool.submit(look)
        try:
            candidates = list(pool.map(import_at_once, builds))
            versions = sorted(candidate.version for candidate in candidates)
            assert versions == list(range(1, 9))
            won = sorted(version for version in pool.map(release_at_once, candidates) if version)
        finally:
            over.set()
    assert 8 in won
    assert strict(tree, signer) == {(CHANNEL, DEVICE): won}
    seen = reader.result()
    assert all(set(before) <= set(after) for before, after in pairwise(seen)), "a version that was there is lost"
    assert not heal_pair(ChannelTree(store, signer, now))


def test_torn_pair_is_healed(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    assert not heal_pair(ChannelTree(store, signer, now))
    for torn in ("channels.json.asc", "channels.json", f"{CHANNEL}/{DEVICE}/index.json.asc"):
        (tree / torn).write_bytes(b"torn")
        with pytest.raises(RefusedError):
            strict(tree, signer)
        assert read_versions(tree, signer) == [1]
        assert heal_pair(ChannelTree(store, signer, now))
        strict(tree, signer)


class Overtaken(DirectoryStore):
    """Others move the channels while somebody looks at channels.json, again and again."""

    def __init__(self, root: Path, signer: Signer, times: int) -> None:
        super().__init__(root)
        self._others, self._signer, self._left = DirectoryStore(root), signer, times

    @contextmanager
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[BinaryIO]:
        if key == "system-image/channels.json" and self._left:
            self._left -= 1
            current = read_channels(ChannelTree(self._others, self._signer, now))
            put_channels(ChannelTree(self._others, self._signer, now), current, current.signed)
        with super().open(key, start=start, stop=stop) as file:
            yield file


def test_the_pair_is_healed_among_as_many_others_as_a_fan_out_has(
    store: DirectoryStore, signer: GnupgSigner, tree: Path
) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    (tree / "channels.json").write_bytes(b"torn")
    assert heal_pair(ChannelTree(Overtaken(tree.parent, signer, 40), signer, now))
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1]}


def _tamper_pool(tree: Path, signer: Signer) -> None:
    path = next((tree / "pool").glob("ubuntu-*.tar.xz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _resign_pool(tree: Path, signer: Signer) -> None:
    path = next((tree / "pool").glob("ubuntu-*.tar.xz"))
    Path(f"{path}.asc").write_bytes(signer.detached_file(Role.CDIMAGE, path))


def _truncate_message(tree: Path, signer: Signer) -> None:
    path = tree / "channels.json.gpg"
    path.write_bytes(path.read_bytes()[:-20])


def _foreign_channels(tree: Path, signer: Signer) -> None:
    path = tree / "channels.json.gpg"
    path.write_bytes(signer.inline(Role.CDIMAGE, (tree / "channels.json").read_bytes()))


def _swap_index(tree: Path, signer: Signer) -> None:
    """A rightly signed index of another device, without the digest that would give it away first."""
    channels = json.loads((tree / "channels.json").read_bytes())
    entry = channels[CHANNEL]["devices"][DEVICE]
    del entry["index_sha256"]
    path = tree / entry["index"].lstrip("/")
    index = json.loads(path.read_bytes())
    index["global"]["device"] = "other_amd64"
    path.write_text(json.dumps(index))
    Path(f"{path}.asc").write_bytes(signer.detached_file(Role.IMAGE_SIGNING, path))
    (tree / "channels.json.gpg").write_bytes(signer.inline(Role.IMAGE_SIGNING, json.dumps(channels).encode()))


def _old_index(tree: Path, signer: Signer) -> None:
    """Rightly signed, but not what the channels document names."""
    entry = json.loads((tree / "channels.json").read_bytes())[CHANNEL]["devices"][DEVICE]
    path = tree / entry["index"].lstrip("/")
    path.write_bytes(path.read_bytes() + b"\n")
    Path(f"{path}.asc").write_bytes(signer.detached_file(Role.IMAGE_SIGNING, path))


def _keyring(kind: str, role: Role, by: Role, **described: Any) -> Callable[[Path, Signer], None]:
    def publish(tree: Path, signer: Signer) -> None:
        tarball = make_keyring(kind, signer.public_key(role), **described)
        (tree / "gpg" / "image-signing.tar.xz").write_bytes(tarball)
        (tree / "gpg" / "image-signing.tar.xz.asc").write_bytes(signer.detached(by, tarball))

    return publish


def _blacklist(tree: Path, signer: Signer) -> None:
    tarball = make_keyring("blacklist", signer.public_key(Role.IMAGE_SIGNING))
    (tree / "gpg" / "blacklist.tar.xz").write_bytes(tarball)
    (tree / "gpg" / "blacklist.tar.xz.asc").write_bytes(signer.detached(Role.IMAGE_MASTER, tarball))


@pytest.mark.spoils
@pytest.mark.parametrize(
    "attack",
    [
        _tamper_pool,
        _resign_pool,
        _truncate_message,
        _foreign_channels,
        _swap_index,
        _old_index,
        _blacklist,
        _keyring("image-signing", Role.IMAGE_SIGNING, Role.IMAGE_MASTER, expiry=int(NOW.timestamp()) - 1),
        _keyring("image-master", Role.IMAGE_SIGNING, Role.IMAGE_MASTER),
        _keyring("image-signing", Role.IMAGE_SIGNING, Role.IMAGE_SIGNING),
        _keyring("image-signing", Role.CDIMAGE, Role.IMAGE_MASTER),
    ],
)
def test_attacks_are_refused(
    attack: Callable[[Path, Signer], None], store: DirectoryStore, signer: GnupgSigner, tree: Path, tmp_path: Path
) -> None:
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    download(tree, signer, tmp_path / "good")
    attack(tree, signer)
    with pytest.raises(VerificationError) as refusal:
        download(tree, signer, tmp_path / "bad")
    assert refusal.value.exit_status == 3
    assert not list((tmp_path / "bad").iterdir())


def test_unsigned_or_unlisted_build_is_not_imported(store: DirectoryStore, signer: GnupgSigner) -> None:
    build = published(store, signer)
    forged = build.model_copy(update={"signature": put_blob_bytes(store, signer.detached(Role.CDIMAGE, b"x"), TEXT)})
    other = put_blob_bytes(store, rootfs_tarball(b"other"), TAR_GZ)
    swapped = build.model_copy(
        update={"files": (build.files[0], build.files[1].model_copy(update={"artifact": other}))}
    )
    for hostile in (forged, swapped):
        with pytest.raises(VerificationError):
            import_build(ChannelTree(store, signer, now), hostile, CHANNEL, DEVICE, run=run)


def test_artifacts_are_as_recorded(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    candidate = imported(store, signer)
    refs: list[ArtifactRef] = [candidate.index, candidate.channels, *candidate.files]
    for ref in refs:
        content = (tree.parent / ref.uri).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (ref.sha256, ref.size_bytes)
