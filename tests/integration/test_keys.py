"""Keys over time, with real GnuPG: rotation, revocation, loss, offline masters, backup; and what clients read."""

from __future__ import annotations

import json
import shutil
import stat
import tarfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from coreimage.client import primary_fingerprints, read_keyring
from coreimage.errors import HostError, NotFoundError, UsageError, VerificationError
from coreimage.http import Downloader
from coreimage.signing import GnupgSigner, KeyFolder, Role, create_keys, issuer_of, make_keyring, write_backup
from coreimage.storage import Store
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import (
    ChannelTree,
    archive_masters_of,
    create_channel,
    end_overlaps,
    export_keyrings,
    import_keyrings,
    move_masters,
    promote,
    publish_keyrings,
    redirect_channel,
    release_candidate,
    remove_channel,
    rename_channel,
    revoke_key,
    rotate_key,
    sign_anew,
    sign_keyrings,
    verify_store,
)
from coreimage.system_image.web import client_errors, open_server
from tests.harness.kill import Killed, KillStore, for_each_kill_point
from tests.harness.trees import CHANNEL, DEVICE, NOW, imported, now, released

BITS = 2048


class Site:
    """A store with one released version, and the keys that made it."""

    def __init__(self, root: Path) -> None:
        self.root, self.keys = root, root / "keys"
        self.store = DirectoryStore(root / "store")

    @property
    def signer(self) -> GnupgSigner:
        return GnupgSigner(self.keys)

    @property
    def tree(self) -> ChannelTree:
        return ChannelTree(self.store, self.signer, now)

    @property
    def archive_master(self) -> bytes:
        return make_keyring("archive-master", self.signer.public_key(Role.ARCHIVE_MASTER))

    def versions(self, at: datetime = NOW) -> list[int]:
        url = (self.root / "store/system-image").as_uri()
        with client_errors():
            opened = open_server(url, self.archive_master, fetch=Downloader(), now=at.timestamp)
            return sorted({image.version for image in opened.index(CHANNEL, DEVICE).images})

    def errors(self, at: datetime = NOW) -> list[str]:
        cdimage = self.signer.public_key(Role.CDIMAGE)
        found = verify_store(self.store, self.archive_master, cdimage_key=cdimage, now=at.timestamp)
        return [f"{finding.where}: {finding.problem}" for finding in found.errors]

    def published(self, kind: str) -> frozenset[str]:
        path = self.root / f"store/system-image/gpg/{kind}.tar.xz"
        return primary_fingerprints(read_keyring(path.read_bytes(), kind, now=0).keys)

    def issuers(self) -> set[str]:
        found = (self.root / "store/system-image").rglob("*.asc")
        return {issuer_of(path.read_bytes()) for path in found if path.parent.name != "gpg"}

    def rotate(self, role: Role = Role.IMAGE_SIGNING, store: Store | None = None) -> str:
        return rotate_key(ChannelTree(store or self.store, self.signer, now), role, self.keys, bits=BITS).fingerprint


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = Site(tmp_path_factory.mktemp("origin"))
    create_keys(site.keys, bits=dict.fromkeys(Role, BITS))
    publish_keyrings(ChannelTree(site.store, site.signer, now))
    released(site.store, site.signer)
    sums = b"0" * 64 + b" *x\n"
    site.store.put_bytes("cdimage/p/1/daily/1/SHA256SUMS", sums, media_type="text/plain")
    signature = site.signer.detached(Role.CDIMAGE, sums)
    site.store.put_bytes("cdimage/p/1/daily/1/SHA256SUMS.gpg", signature, media_type="text/plain")
    site.store.put_bytes("cdimage/p/1/daily/1/x", b"", media_type="text/plain")
    return site.root


@pytest.fixture
def site(origin: Path, tmp_path: Path) -> Site:
    shutil.copytree(origin, tmp_path / "site")
    return Site(tmp_path / "site")


def test_a_store_is_known_by_its_archive_master_also_without_the_keyring(site: Site) -> None:
    owner = site.signer.fingerprint(Role.ARCHIVE_MASTER)
    assert archive_masters_of(site.store) == {owner}
    site.store.delete(["system-image/gpg/archive-master.tar.xz"])
    assert archive_masters_of(site.store) == {owner}


def test_a_signature_names_its_maker(site: Site) -> None:
    for signature in (site.signer.detached(Role.CDIMAGE, b"x"), site.signer.detached(Role.CDIMAGE, b"y" * 100_000)):
        assert issuer_of(signature) == site.signer.fingerprint(Role.CDIMAGE)
    for nonsense in (
        b"",
        b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n",
        b"\x88",
        b"\x00" * 40,
        b"\xc2\x05\x04\x00\x01\x0a\x00",
    ):
        assert issuer_of(nonsense) == ""


def test_rotation_leaves_nothing_signed_by_the_former_key_alone(site: Site) -> None:
    old = site.signer.fingerprint(Role.IMAGE_SIGNING)
    new = site.rotate()
    assert new != old
    assert site.published("image-signing") == {old, new}
    assert site.issuers() == {new}
    assert site.versions() == [1]
    assert site.errors() == [f"cdimage/p/1/daily/1/x: {_SUM}"]
    assert site.rotate() == new, "while both count, no other rotation begins"
    assert end_overlaps(ChannelTree(site.store, site.signer, now), site.keys) == ()
    later = NOW + timedelta(days=91)
    assert end_overlaps(ChannelTree(site.store, site.signer, lambda: later), site.keys) == (old,)
    assert site.published("image-signing") == {new}
    assert site.versions(later) == [1]
    assert released(site.store, site.signer, "20261124", b"two") == 2


KEY_OPERATIONS: dict[str, Callable[[Site], object]] = {
    "rotate": lambda site: site.rotate(),
    "rotate the master": lambda site: site.rotate(Role.IMAGE_MASTER),
    "revoke": lambda site: revoke_key(site.tree, site.signer.fingerprint(Role.IMAGE_SIGNING), site.keys, bits=BITS),
    "revoke the master": lambda site: revoke_key(
        site.tree, site.signer.fingerprint(Role.IMAGE_MASTER), site.keys, bits=BITS
    ),
}
CHANNEL_OPERATIONS: dict[str, Callable[[Site], object]] = {
    "nothing": lambda site: None,
    "rename": lambda site: rename_channel(site.tree, CHANNEL, "debian-core/13/daily"),
    "redirect": lambda site: (
        create_channel(site.tree, "debian-core/13/daily"),
        promote(site.tree, CHANNEL, "debian-core/13/daily", DEVICE),
        redirect_channel(site.tree, CHANNEL, "debian-core/13/daily", device=DEVICE),
    ),
    "remove": lambda site: remove_channel(site.tree, CHANNEL),
}


@pytest.mark.parametrize("key_operation", KEY_OPERATIONS)
def test_a_waiting_candidate_verifies_and_can_be_released(site: Site, key_operation: str) -> None:
    candidate = imported(site.store, site.signer, "20261124", b"two")
    KEY_OPERATIONS[key_operation](site)
    assert site.errors() == [f"cdimage/p/1/daily/1/x: {_SUM}"]
    assert release_candidate(site.tree, candidate).version == 2
    assert site.errors() == [f"cdimage/p/1/daily/1/x: {_SUM}"]


@pytest.mark.parametrize("channel_operation", CHANNEL_OPERATIONS)
def test_what_a_channel_leaves_verifies_after_a_revocation(site: Site, channel_operation: str) -> None:
    imported(site.store, site.signer, "20261124", b"two")
    CHANNEL_OPERATIONS[channel_operation](site)
    assert site.errors() == [f"cdimage/p/1/daily/1/x: {_SUM}"]
    KEY_OPERATIONS["revoke"](site)
    assert site.errors() == [f"cdimage/p/1/daily/1/x: {_SUM}"]


def test_a_candidate_that_nobody_can_verify_is_removed(site: Site) -> None:
    candidate = imported(site.store, site.signer, "20261124", b"two")
    site.store.put_bytes(candidate.channels.uri, b"by a stranger", media_type="text/plain")
    site.rotate()
    assert site.store.head(candidate.channels.uri) is None
    assert site.errors() == [f"cdimage/p/1/daily/1/x: {_SUM}"]


_SUM = "it does not have the digest that SHA256SUMS lists"


@pytest.mark.parametrize("role", [Role.IMAGE_MASTER, Role.CDIMAGE])
def test_other_roles_rotate_too(site: Site, role: Role) -> None:
    new = site.rotate(role)
    assert site.versions() == [1]
    assert site.errors() == [f"cdimage/p/1/daily/1/x: {_SUM}"]
    signature = (
        "system-image/gpg/image-signing.tar.xz.asc"
        if role is Role.IMAGE_MASTER
        else "cdimage/p/1/daily/1/SHA256SUMS.gpg"
    )
    assert issuer_of((site.root / "store" / signature).read_bytes()) == new


def test_archive_master_is_not_rotated_here(site: Site) -> None:
    with pytest.raises(UsageError, match="every image"):
        site.rotate(Role.ARCHIVE_MASTER)


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rotation_killed_at_every_store_call(every: int, origin: Path, tmp_path: Path) -> None:
    """The keys folder stays as the kill left it; the same command finishes. The new key is made before anything is
    stored, so that it is made once for all."""
    site, begun = Site(tmp_path / "site"), tmp_path / "begun"
    shutil.copytree(origin, begun)
    with pytest.raises(Killed):
        Site(begun).rotate(store=KillStore(Site(begun).store, 1))
    assert KeyFolder(begun / "keys").next_home(Role.IMAGE_SIGNING).is_dir()

    def fresh() -> Store:
        shutil.rmtree(site.root, ignore_errors=True)
        shutil.copytree(begun, site.root)
        return site.store

    def readable(_: Store) -> None:
        assert site.versions() == [1]

    def finished(_: Store) -> None:
        assert len(site.published("image-signing")) == 2
        assert site.issuers() == {site.signer.fingerprint(Role.IMAGE_SIGNING)}

    def rotate(store: Store) -> None:
        site.rotate(store=store)

    assert for_each_kill_point(fresh, rotate, readable, finished=finished, every=every) > 10


def test_a_revoked_key_signs_nothing_any_more(site: Site) -> None:
    thief = site.signer
    stolen = thief.fingerprint(Role.IMAGE_SIGNING)
    content = (site.root / "store/system-image/channels.json").read_bytes()
    forged = thief.inline(Role.IMAGE_SIGNING, content)
    revoked = revoke_key(ChannelTree(site.store, site.signer, now), stolen, site.keys, bits=BITS)
    assert revoked.changed
    assert site.published("blacklist") == {stolen}
    assert site.published("image-signing") == {revoked.fingerprint}
    assert site.versions() == [1]
    assert not revoke_key(ChannelTree(site.store, site.signer, now), stolen, site.keys, bits=BITS).changed
    assert site.signer.fingerprint(Role.IMAGE_SIGNING) == revoked.fingerprint, "the new key is not revoked by a rerun"
    (site.root / "store/system-image/channels.json.gpg").write_bytes(forged)
    with pytest.raises(VerificationError):
        site.versions()
    with pytest.raises(NotFoundError, match="--key"):
        revoke_key(ChannelTree(site.store, site.signer, now), "0" * 40, site.keys)


def test_a_key_is_revoked_while_the_one_before_still_counts(site: Site) -> None:
    first = site.signer.fingerprint(Role.IMAGE_SIGNING)
    stolen = site.rotate()
    revoked = revoke_key(ChannelTree(site.store, site.signer, now), stolen, site.keys, bits=BITS)
    assert revoked.fingerprint not in {first, stolen}
    assert site.published("blacklist") == {stolen}
    assert site.published("image-signing") == {first, revoked.fingerprint}
    assert site.issuers() == {revoked.fingerprint}
    assert site.versions() == [1]


def test_a_key_that_was_never_here_is_revoked_by_its_public_half(site: Site, tmp_path: Path) -> None:
    create_keys(tmp_path / "other", bits=dict.fromkeys(Role, BITS))
    other = GnupgSigner(tmp_path / "other")
    keys = other.public_key(Role.CDIMAGE)
    fingerprint = other.fingerprint(Role.CDIMAGE)
    assert revoke_key(ChannelTree(site.store, site.signer, now), fingerprint, site.keys, public_key=keys).changed
    assert site.published("blacklist") == {fingerprint}
    publish_keyrings(ChannelTree(site.store, site.signer, lambda: NOW + timedelta(days=400)))
    assert site.published("blacklist") == {fingerprint}


@pytest.mark.parametrize("role", [Role.IMAGE_SIGNING, Role.IMAGE_MASTER])
@pytest.mark.parametrize("made_anew", [False, True])
def test_a_lost_key_is_replaced(site: Site, role: Role, made_anew: bool) -> None:
    """`made_anew`: somebody has made a key in its place already, which no client knows."""
    lost = site.signer.fingerprint(role)
    shutil.rmtree(site.keys / role.value)
    if made_anew:
        create_keys(site.keys, bits=dict.fromkeys(Role, BITS))
    new = site.rotate(role)
    assert new != lost
    assert site.published(role.value) == {lost, new}
    assert site.versions() == [1]
    later = NOW + timedelta(days=91)
    end_overlaps(ChannelTree(site.store, site.signer, lambda: later), site.keys)
    assert site.published(role.value) == {new}
    assert site.versions(later) == [1]


def test_masters_stay_offline(site: Site, tmp_path: Path) -> None:
    masters, medium = tmp_path / "masters", tmp_path / "medium"
    before = site.archive_master
    assert move_masters(site.keys, masters) == (Role.ARCHIVE_MASTER, Role.IMAGE_MASTER)
    assert move_masters(site.keys, masters) == ()
    assert not (site.keys / "archive-master").exists()
    assert site.archive_master == before
    assert create_keys(site.keys, bits=dict.fromkeys(Role, BITS)) == [], "a master elsewhere is not missing"
    assert export_keyrings(ChannelTree(site.store, site.signer, now), medium).keyrings == ()
    assert released(site.store, site.signer, "20261124", b"two") == 2

    late = NOW + timedelta(days=400)
    assert publish_keyrings(ChannelTree(site.store, site.signer, lambda: late)) == [], "it serves for a year more"
    ended = NOW + timedelta(days=731)
    with pytest.raises(HostError, match="keys export"):
        publish_keyrings(ChannelTree(site.store, site.signer, lambda: ended))

    with pytest.raises(HostError, match="keys export"):
        site.rotate()
    assert export_keyrings(ChannelTree(site.store, site.signer, now), medium).keyrings == ("image-signing",)
    with pytest.raises(UsageError, match="not signed yet"):
        import_keyrings(ChannelTree(site.store, site.signer, now), medium)
    assert sign_keyrings(medium, signer=GnupgSigner(masters)).signed
    assert import_keyrings(ChannelTree(site.store, site.signer, now), medium).keyrings == ("image-signing",)
    new = site.rotate()
    assert new in site.published("image-signing")
    assert site.versions() == [1, 2]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.spoils
@pytest.mark.parametrize(
    "spoil",
    [
        lambda medium, site: _flip(medium / "image-signing.tar.xz"),
        lambda medium, site: _flip(medium / "image-signing.tar.xz.asc"),
        lambda medium, site: _sign_by(site, medium, Role.IMAGE_SIGNING),
        lambda medium, site: (medium / "to-sign.json").write_text('{"keyrings": ["../x"]}'),
        lambda medium, site: (medium / "to-sign.json").write_text("{"),
    ],
)
def test_what_comes_back_from_the_masters_is_verified(
    site: Site, tmp_path: Path, spoil: Callable[[Path, Site], object]
) -> None:
    masters, medium = tmp_path / "masters", tmp_path / "medium"
    move_masters(site.keys, masters)
    shutil.rmtree(site.root / "store/system-image/gpg")
    export_keyrings(ChannelTree(site.store, site.signer, now), medium)
    sign_keyrings(medium, signer=GnupgSigner(masters))
    spoil(medium, site)
    with pytest.raises((VerificationError, UsageError)):
        import_keyrings(ChannelTree(site.store, site.signer, now), medium)
    assert not (site.root / "store/system-image/gpg/image-signing.tar.xz").exists()


def _sign_by(site: Site, medium: Path, role: Role) -> int:
    signature = site.signer.detached_file(role, medium / "image-signing.tar.xz")
    return (medium / "image-signing.tar.xz.asc").write_bytes(signature)


@pytest.mark.spoils
def test_nothing_unverified_is_signed_anew(site: Site) -> None:
    site.rotate()
    retired = KeyFolder(site.keys).overlapping(Role.IMAGE_SIGNING)[0]
    pool = next((site.root / "store/system-image/pool").glob("ubuntu-*.tar.xz"))
    former = GnupgSigner(site.root / "former")
    shutil.copytree(retired.home, site.root / "former/image-signing")
    Path(f"{pool}.asc").write_bytes(former.detached(Role.IMAGE_SIGNING, b"something else"))
    with pytest.raises(VerificationError, match="ubuntu-"):
        sign_anew(ChannelTree(site.store, site.signer, now))


def test_a_backup_is_whole_private_and_never_overwritten(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    assert write_backup(site.keys, file) == tuple(Role)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with tarfile.open(file) as tar:
        tar.extractall(tmp_path / "restored", filter="tar")
    restored = GnupgSigner(tmp_path / "restored")
    assert restored.fingerprint(Role.IMAGE_SIGNING) == site.signer.fingerprint(Role.IMAGE_SIGNING)
    restored.detached(Role.IMAGE_SIGNING, b"x")
    with pytest.raises(UsageError, match="exists already"):
        write_backup(site.keys, file)
    with pytest.raises(UsageError, match="no keys"):
        write_backup(tmp_path / "nothing", tmp_path / "other.tar")


def test_requests_name_only_keyrings(tmp_path: Path, site: Site) -> None:
    (tmp_path / "to-sign.json").write_text(json.dumps({"keyrings": "image-signing"}))
    with pytest.raises(VerificationError):
        sign_keyrings(tmp_path, signer=site.signer)
