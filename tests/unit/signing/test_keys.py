"""The folder of keys: which count, and what switching and backing up leave. No key here is a real one."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from coreimage.errors import HostError, UsageError, VerificationError
from coreimage.host.process import Completed
from coreimage.signing import (
    GnupgSigner,
    KeyFolder,
    Role,
    adopt_lost_key,
    create_keys,
    exported_key,
    switch_keys,
    write_backup,
)

ROLE, OLD, LOST = Role.IMAGE_SIGNING, "A" * 40, "B" * 40


def listing(argv: Any, **_: Any) -> Completed:
    """What gpg prints of a key."""
    return Completed(tuple(map(str, argv)), 0, f"pub:u:3072:1:{OLD[:16]}:::\nfpr:::::::::{OLD}:\n")


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """A current and a next key."""
    keys = KeyFolder(tmp_path / "keys")
    for home, content in ((keys.home(ROLE), "current"), (keys.next_home(ROLE), "next")):
        home.mkdir(parents=True)
        (home / "pubring.kbx").write_text(content)
    return keys


def test_a_switch_retires_the_current_key_and_lets_the_next_one_sign(keys: KeyFolder) -> None:
    switch_keys(keys.path, ROLE, 1_800_000_000, run=listing)
    assert (keys.home(ROLE) / "pubring.kbx").read_text() == "next"
    assert not keys.next_home(ROLE).exists()
    (retired,) = keys.overlapping(ROLE)
    assert (retired.fingerprint, retired.until) == (OLD, 1_800_000_000)
    assert (retired.home / "pubring.kbx").read_text() == "current"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where each file or folder was, in the order in which they were synced."""
    paths: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: paths.append(Path(f"/proc/self/fd/{handle}").readlink()))
    return paths


def test_new_keys_are_on_the_disk_before_anybody_is_told_of_them(synced: list[Path], tmp_path: Path) -> None:
    def generate(argv: Any, **_: Any) -> Completed:
        home = Path(argv[argv.index("--homedir") + 1])
        (home / "private-keys-v1.d").mkdir(exist_ok=True)
        (home / "private-keys-v1.d/0.key").write_text("secret")
        return Completed(tuple(map(str, argv)), 0, "")

    assert create_keys(tmp_path / "keys", run=generate) == list(Role)
    assert synced[0] == tmp_path
    for number in range(len(Role)):
        key, subfolder, home, folder = synced[1 + 4 * number :][:4]
        assert (key.name, key.parent, subfolder.parent) == ("0.key", subfolder, home)
        assert folder == tmp_path / "keys"


def test_a_switch_is_on_the_disk_when_it_returns(synced: list[Path], keys: KeyFolder) -> None:
    switch_keys(keys.path, ROLE, 1_800_000_000, run=listing)
    assert {path.name for path in synced if path.parent == keys.home(ROLE)} == {"until", "pubring.kbx"}
    assert synced[-3:] == [keys.path / "retired", keys.path, keys.path]


def test_a_lost_key_is_on_the_disk_when_it_counts(synced: list[Path], keys: KeyFolder) -> None:
    adopt_lost_key(keys.path, ROLE, LOST, b"public", 1_800_000_000)
    home = keys.retired_home(ROLE, LOST)
    assert set(synced) == {home / "until", home / "public.gpg", home, keys.path / "retired", keys.path}


def test_a_former_key_counts_until_its_file_is_gone(keys: KeyFolder) -> None:
    adopt_lost_key(keys.path, ROLE, LOST, b"public", 1_800_000_000)
    (lost,) = keys.overlapping(ROLE)
    assert exported_key(lost.home) == b"public"
    assert keys.overlapping(Role.CDIMAGE) == ()
    (lost.home / "until").unlink()
    assert keys.overlapping(ROLE) == ()
    (retired,) = keys.retired(ROLE)
    assert (retired.fingerprint, retired.until) == (LOST, None)
    (lost.home / "until").write_text("tomorrow")
    with pytest.raises(VerificationError, match="names no time"):
        keys.overlapping(ROLE)


def test_a_folder_that_is_no_former_key_is_none(keys: KeyFolder) -> None:
    (keys.path / "retired" / f"{ROLE.value}-notes").mkdir(parents=True)
    assert keys.retired(ROLE) == ()


def test_a_role_is_known_by_its_public_key_alone(keys: KeyFolder) -> None:
    assert (keys.has(ROLE), keys.knows(ROLE)) == (True, True)
    assert (keys.has(Role.CDIMAGE), keys.knows(Role.CDIMAGE)) == (False, False)
    keys.public_file(Role.CDIMAGE).parent.mkdir()
    keys.public_file(Role.CDIMAGE).write_bytes(b"public")
    assert (keys.has(Role.CDIMAGE), keys.knows(Role.CDIMAGE)) == (False, True)


def test_nothing_is_signed_without_the_private_key(keys: KeyFolder) -> None:
    """A worker of the queue `build` has no keys: what it should sign is refused, and says where keys come from."""
    signer = GnupgSigner(keys.path, run=lambda *_, **__: pytest.fail("gpg was started"))
    for sign in (signer.detached, signer.inline):
        with pytest.raises(HostError, match="the cdimage key is not on this machine") as raised:
            sign(Role.CDIMAGE, b"content")
        assert "keys init" in raised.value.resolution
    keys.public_file(Role.CDIMAGE).parent.mkdir()
    keys.public_file(Role.CDIMAGE).write_bytes(b"public")
    assert signer.public_key(Role.CDIMAGE) == b"public"
    with pytest.raises(HostError, match="kept elsewhere"):
        signer.detached(Role.CDIMAGE, b"content")


def test_a_backup_holds_all_keys_and_is_only_the_owners(keys: KeyFolder, tmp_path: Path) -> None:
    adopt_lost_key(keys.path, ROLE, LOST, b"public", 1)
    (keys.path / ".new-cdimage-killed").mkdir()
    (keys.path / ".new-cdimage-killed" / "half").write_text("")
    backup = tmp_path / "backup.tar"
    assert write_backup(keys.path, backup) == (ROLE,)
    assert backup.stat().st_mode & 0o777 == 0o600
    with tarfile.open(backup) as tar:
        names = set(tar.getnames())
    assert {
        f"./{path}"
        for path in (
            "image-signing/pubring.kbx",
            "next/image-signing/pubring.kbx",
            f"retired/image-signing-{LOST}/public.gpg",
            f"retired/image-signing-{LOST}/until",
        )
    } <= names
    assert not any(".new-" in name for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "keys"]


def test_a_backup_never_replaces_a_file_and_is_never_empty(keys: KeyFolder, tmp_path: Path) -> None:
    (tmp_path / "backup.tar").write_text("the only one")
    with pytest.raises(UsageError, match="exists already"):
        write_backup(keys.path, tmp_path / "backup.tar")
    assert (tmp_path / "backup.tar").read_text() == "the only one"
    with pytest.raises(UsageError, match="holds no keys"):
        write_backup(tmp_path / "none", tmp_path / "other.tar")
    with pytest.raises(HostError, match="cannot write the backup"):
        write_backup(keys.path, tmp_path / "absent" / "backup.tar")
