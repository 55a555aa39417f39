"""The whole chain over a small build, with real GnuPG and xz: import, candidate, release, and what clients read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coreimage.client import Image, Session
from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.image_server import client_errors, open_server
from coreimage.model import TAR_GZ, TEXT, ArtifactRef, Candidate, PublishedBuild, PublishedFile
from coreimage.process import run
from coreimage.signing import GnupgSigner, Role, Signer, create_keys, make_keyring
from coreimage.storage import put_blob_bytes
from coreimage.storage.directory import DirectoryStore
from coreimage.storage.store import Store
from coreimage.system_image import heal_pair, import_build, publish_keyrings, release_candidate
from tests.harness.strict_client import RefusedError, check_tree

CHANNEL, DEVICE = "debian-core/13/edge", "generic_amd64"
NOW = datetime.now(UTC).replace(microsecond=0)


def now() -> datetime:
    return NOW


class Killed(BaseException):
    pass


class KillingStore:
    """A store whose process is killed just before its n-th call, counting from 1."""

    def __init__(self, store: Store, at: int) -> None:
        self._store, self._at, self.calls = store, at, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                raise Killed
            return found(*arguments, **keywords)

        return call


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> GnupgSigner:
    folder = tmp_path_factory.mktemp("keys")
    create_keys(folder, bits=dict.fromkeys(Role, 2048))
    return GnupgSigner(folder)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "store" / "system-image"


def fetch_file(
    url: str, path: Path, *, sha256: str | None = None, size_bytes: int | None = None, limit_bytes: int | None = None
) -> Path:
    source = Path(url.removeprefix("file://"))
    if not source.is_file():
        raise NotFoundError("not there", where=url)
    shutil.copyfile(source, path)
    return path


def session(tree: Path, signer: Signer, **options: Any) -> Session:
    archive_master = make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))
    return open_server(tree.as_uri(), archive_master, fetch=fetch_file, now=NOW.timestamp, **options)


def read_versions(tree: Path, signer: Signer, **options: Any) -> list[int]:
    with client_errors():
        return [image.version for image in session(tree, signer, **options).index(CHANNEL, DEVICE).images]


def download(tree: Path, signer: Signer, folder: Path, **options: Any) -> tuple[Image, tuple[Path, ...]]:
    folder.mkdir(exist_ok=True)
    with client_errors():
        opened = session(tree, signer, **options)
        image = opened.select(CHANNEL, DEVICE)
        return image, opened.download(CHANNEL, DEVICE, image, folder)


def _tar_gz(members: list[tuple[str, bytes, bytes, str]]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname, member.mtime = kind, len(content), link, 1_700_000_000
            if name == "usr/bin/ping":
                member.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00 \x00\x00" + "\x00" * 12}
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def rootfs_tarball(text: bytes) -> bytes:
    file, folder, soft, hard = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    return _tar_gz(
        [
            ("SWAP.swap", file, b"swap", ""),
            ("etc", folder, b"", ""),
            ("etc/mtab", file, b"", ""),
            ("etc/issue", file, text, ""),
            ("lib", soft, b"", "usr/lib"),
            ("usr", folder, b"", ""),
            ("usr/bin", folder, b"", ""),
            ("usr/bin/ping", file, b"ping", ""),
            ("usr/bin/ping6", hard, b"", "usr/bin/ping"),
            ("usr/lib", folder, b"", ""),
        ]
    )


def published(store: Store, signer: Signer, build_id: str = "20261123", text: bytes = b"one") -> PublishedBuild:
    device = _tar_gz([("hardware.yaml", tarfile.REGTYPE, b"kernel: assets/vmlinuz\n", "")])
    files = [
        PublishedFile(name=f"trixie-preinstalled-core-amd64{suffix}", artifact=put_blob_bytes(store, content, TAR_GZ))
        for suffix, content in ((".device.tar.gz", device), (".tar.gz", rootfs_tarball(text)))
    ]
    sums = "".join(f"{file.artifact.sha256} *{file.name}\n" for file in files).encode()
    return PublishedBuild(
        project="debian-core",
        series="13",
        image_type="daily-preinstalled",
        build_id=build_id,
        prefix=f"cdimage/debian-core/daily-preinstalled/{build_id}/",
        files=tuple(files),
        checksums=put_blob_bytes(store, sums, TEXT),
        signature=put_blob_bytes(store, signer.detached(Role.CDIMAGE, sums), TEXT),
    )


def imported(store: Store, signer: Signer, build_id: str = "20261123", text: bytes = b"one") -> Candidate:
    build = published(store, signer, build_id, text)
    return import_build(build, CHANNEL, DEVICE, store=store, signer=signer, run=run, now=now)


def released(store: Store, signer: Signer, build_id: str = "20261123", text: bytes = b"one") -> int:
    candidate = imported(store, signer, build_id, text)
    return release_candidate(candidate, store=store, signer=signer, now=now).version


def strict(tree: Path, signer: Signer) -> dict[tuple[str, str], list[int]]:
    return check_tree(tree, make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER)))


def _candidate_path(candidate: Candidate) -> str:
    return candidate.channels.uri.removeprefix("system-image/")


def test_candidate_is_read_before_the_channel_knows_it(
    store: DirectoryStore, signer: GnupgSigner, tree: Path, tmp_path: Path
) -> None:
    assert publish_keyrings(store=store, signer=signer, now=now) == [
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

    release_candidate(candidate, store=store, signer=signer, now=now)
    assert read_versions(tree, signer) == [1]
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1]}

    assert released(store, signer, "20261124", b"two") == 2
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1, 2]}
    index = json.loads((tree / CHANNEL / DEVICE / "index.json").read_bytes())
    devices = [image["files"][1]["path"] for image in index["images"]]
    assert devices[0] == devices[1], "an unchanged device tarball is one pool file"


def test_rootfs_is_customised(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    candidate = imported(store, signer)
    with tarfile.open(tree.parent / candidate.files[0].artifact.uri) as tar:
        members = {member.name: member for member in tar}
    assert "system/SWAP.swap" not in members
    assert list(members)[-3:] == ["system/writable", "system/usr/lib/modules", "system/etc/mtab"]
    assert members["system/usr/bin/ping6"].linkname == "system/usr/bin/ping"
    assert "SCHILY.xattr.security.capability" in members["system/usr/bin/ping"].pax_headers
    assert members["system/writable"].mtime == 1_700_000_000


def test_publishing_keyrings_again_changes_nothing_until_they_near_their_end(
    store: DirectoryStore, signer: GnupgSigner
) -> None:
    publish_keyrings(store=store, signer=signer, now=now)
    before = {info.key: info.etag for info in store.list("system-image/gpg/")}
    assert publish_keyrings(store=store, signer=signer, now=now) == []
    assert {info.key: info.etag for info in store.list("system-image/gpg/")} == before
    assert publish_keyrings(store=store, signer=signer, now=lambda: NOW + timedelta(days=400)) == ["image-signing"]


def test_same_inputs_give_the_same_candidate_and_release_is_idempotent(
    store: DirectoryStore, signer: GnupgSigner, tree: Path
) -> None:
    publish_keyrings(store=store, signer=signer, now=now)
    candidate = imported(store, signer)
    assert imported(store, signer) == candidate
    release_candidate(candidate, store=store, signer=signer, now=now)
    before = {info.key: info.etag for info in store.list("system-image/")}
    release_candidate(candidate, store=store, signer=signer, now=now)
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
        release_candidate(first, store=store, signer=signer, now=now)


def test_racing_releases_lose_no_version(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    publish_keyrings(store=store, signer=signer, now=now)
    devices = ["generic_amd64", "pc_amd64", "azure_amd64"]
    build = published(store, signer)
    more = [
        file.model_copy(update={"name": file.name.replace(".device", f".{name}.device")})
        for name in ("pc", "azure")
        for file in build.files
        if ".device." in file.name
    ]
    sums = "".join(f"{file.artifact.sha256} *{file.name}\n" for file in (*build.files, *more)).encode()
    build = build.model_copy(
        update={
            "files": (*build.files, *more),
            "checksums": put_blob_bytes(store, sums, TEXT),
            "signature": put_blob_bytes(store, signer.detached(Role.CDIMAGE, sums), TEXT),
        }
    )
    candidates = [import_build(build, CHANNEL, name, store=store, signer=signer, run=run, now=now) for name in devices]
    threads = [
        threading.Thread(
            target=release_candidate, args=(candidate,), kwargs={"store": store, "signer": signer, "now": now}
        )
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
    publish_keyrings(store=store, signer=signer, now=now)
    first, second = imported(store, signer, "20261123"), imported(store, signer, "20261124", b"two")
    release_candidate(first, store=store, signer=signer, now=now)
    release_candidate(second, store=store, signer=signer, now=now)
    assert strict(tree, signer) == {(CHANNEL, DEVICE): [1, 2]}


def test_killed_at_every_store_call(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    publish_keyrings(store=store, signer=signer, now=now)
    released(store, signer, "20261123")
    second = published(store, signer, "20261124", b"two")
    start = tree.parent.parent / "start"
    shutil.copytree(tree.parent, start)

    def publish(to: Store) -> None:
        candidate = import_build(second, CHANNEL, DEVICE, store=to, signer=signer, run=run, now=now)
        release_candidate(candidate, store=to, signer=signer, now=now)

    at, done = 1, False
    while not done:
        shutil.rmtree(tree.parent)
        shutil.copytree(start, tree.parent)
        killed = KillingStore(store, at)
        try:
            publish(killed)
            done = True
        except Killed:
            assert read_versions(tree, signer) in ([1], [1, 2])
            publish(store)
        assert strict(tree, signer) == {(CHANNEL, DEVICE): [1, 2]}, f"killed at call {at}"
        assert not (tree / CHANNEL / DEVICE / "version-3.json").exists()
        at += 1
    assert at > 20


def test_torn_pair_is_healed(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    publish_keyrings(store=store, signer=signer, now=now)
    released(store, signer)
    assert not heal_pair(store=store, signer=signer)
    for torn in ("channels.json.asc", "channels.json", f"{CHANNEL}/{DEVICE}/index.json.asc"):
        (tree / torn).write_bytes(b"torn")
        with pytest.raises(RefusedError):
            strict(tree, signer)
        assert read_versions(tree, signer) == [1]
        assert heal_pair(store=store, signer=signer)
        strict(tree, signer)


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
    publish_keyrings(store=store, signer=signer, now=now)
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
            import_build(hostile, CHANNEL, DEVICE, store=store, signer=signer, run=run, now=now)


def _original_tree(root: Path, signer: Signer) -> None:
    """A tree as the original server lays it out (system-image §1 and §2): pairs only, none of our own keys."""

    def put(path: str, content: bytes, role: Role = Role.IMAGE_SIGNING) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        Path(f"{file}.asc").write_bytes(signer.detached(role, content))

    put(
        "gpg/archive-master.tar.xz",
        make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER)),
        Role.ARCHIVE_MASTER,
    )
    put(
        "gpg/image-master.tar.xz",
        make_keyring("image-master", signer.public_key(Role.IMAGE_MASTER)),
        Role.ARCHIVE_MASTER,
    )
    expiry = int(NOW.timestamp()) + 63_072_000
    signing = make_keyring("image-signing", signer.public_key(Role.IMAGE_SIGNING), expiry=expiry)
    put("gpg/image-signing.tar.xz", signing, Role.IMAGE_MASTER)
    files = []
    for order, path in enumerate(
        ("/pool/ubuntu-1.tar.xz", "/pool/device-2.tar.xz", f"/{CHANNEL}/{DEVICE}/version-7.tar.xz")
    ):
        content = path.encode()
        put(path.lstrip("/"), content)
        digest = hashlib.sha256(content).hexdigest()
        files.append(
            {"path": path, "signature": f"{path}.asc", "checksum": digest, "size": len(content), "order": order}
        )
    image = {"type": "full", "version": 7, "description": "x", "version_detail": "version=7", "files": files[::-1]}
    delta = {**image, "type": "delta", "base": 6}
    stamp = {"generated_at": "Mon Nov 23 18:34:20 UTC 2026"}
    index = f"{CHANNEL}/{DEVICE}/index.json"
    put(index, json.dumps({"global": stamp, "images": [image, delta]}, indent=4).encode())
    put("channels.json", json.dumps({CHANNEL: {"devices": {DEVICE: {"index": f"/{index}"}}}}, indent=4).encode())


def test_tree_of_the_original_server_is_read(signer: GnupgSigner, tmp_path: Path) -> None:
    _original_tree(tmp_path / "www", signer)
    image, files = download(tmp_path / "www", signer, tmp_path / "files")
    assert (image.version, image.type) == (7, "full")
    assert [path.name for path in files] == ["ubuntu-1.tar.xz", "device-2.tar.xz", "version-7.tar.xz"]


def test_artifacts_are_as_recorded(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    candidate = imported(store, signer)
    refs: list[ArtifactRef] = [candidate.index, candidate.channels, *(file.artifact for file in candidate.files)]
    for ref in refs:
        content = (tree.parent / ref.uri).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (ref.sha256, ref.size_bytes)
