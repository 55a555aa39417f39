"""What gpg and gpgv are asked, and what becomes of their answers; tests/integration has the real ones."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from coreimage.errors import DiskFullError, HostError, VerificationError
from coreimage.signing import (
    GnupgSigner,
    KeyFolder,
    Role,
    adopt_lost_key,
    create_keys,
    exported_key,
    open_inline,
    signs,
    verify_detached,
)
from coreimage.signing.gnupg import fingerprint_in_home
from coreimage.signing.keys import KEY_BITS, create_next_key, switch_keys
from tests.unit.signing.gnupg import Gnupg, fingerprint, inline, signature

ROLE = Role.IMAGE_SIGNING
NAME, NEXT = "coreimage image-signing rsa3072", "coreimage image-signing rsa2048"


@pytest.fixture
def gnupg() -> Gnupg:
    return Gnupg()


@pytest.fixture
def keys(tmp_path: Path, gnupg: Gnupg) -> KeyFolder:
    create_keys(tmp_path / "deep" / "keys", run=gnupg)
    gnupg.calls.clear()
    return KeyFolder(tmp_path / "deep" / "keys")


@pytest.fixture
def signer(keys: KeyFolder, gnupg: Gnupg) -> GnupgSigner:
    return GnupgSigner(keys.path, run=gnupg)


# Verifying


@pytest.mark.parametrize("as_file", [False, True])
def test_a_detached_signature_counts_by_a_key_of_any_keyring_that_is_not_refused(
    as_file: bool, tmp_path: Path, gnupg: Gnupg
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    content = tmp_path / "file" if as_file else b"content"
    for name in ("one", "two", "three"):
        made = signature(name, b"content")
        refused = [fingerprint("four")]
        assert verify_detached(content, made, [b"one+two", b"three"], refused=refused, run=gnupg) == fingerprint(name)
        with pytest.raises(VerificationError, match="is blacklisted") as raised:
            verify_detached(content, made, [b"one+two", b"three"], refused=[fingerprint(name)], where="x", run=gnupg)
        assert raised.value.where == "x"
    with pytest.raises(VerificationError, match="not in the keyring"):
        verify_detached(content, signature("four", b"content"), [b"one+two"], run=gnupg)
    with pytest.raises(VerificationError, match="does not match") as raised:
        verify_detached(content, signature("one", b"other"), [b"one"], where="x", run=gnupg)
    assert raised.value.where == "x"
    assert "fetch it again" in raised.value.resolution


def test_a_file_of_the_folder_that_we_are_in_is_found(
    tmp_path: Path, gnupg: Gnupg, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.chdir(tmp_path)
    assert verify_detached(Path("file"), signature("one", b"content"), [b"one"], run=gnupg)


def test_a_message_is_opened_by_a_key_that_is_not_refused(gnupg: Gnupg) -> None:
    message = inline("one", b"content")
    assert open_inline(message, [b"one"], refused=["other"], run=gnupg) == (fingerprint("one"), b"content")
    with pytest.raises(VerificationError, match="is blacklisted"):
        open_inline(message, [b"one"], refused=[fingerprint("one")], run=gnupg)
    with pytest.raises(VerificationError, match="not in the keyring"):
        open_inline(message, [b"two"], run=gnupg)


@pytest.mark.parametrize("plaintexts", [0, 2])
def test_a_message_holds_exactly_one_content(plaintexts: int, gnupg: Gnupg) -> None:
    gnupg.plaintexts = plaintexts
    with pytest.raises(VerificationError, match="exactly one content") as raised:
        open_inline(inline("one", b"content"), [b"one"], where="x", run=gnupg)
    assert raised.value.where == "x"


def test_a_full_disk_is_no_bad_signature(gnupg: Gnupg) -> None:
    gnupg.stderr = "gpgv: error writing: No space left on device"
    with pytest.raises(DiskFullError):
        verify_detached(b"content", signature("one", b"content"), [b"one"], run=gnupg)


# Signing


def test_the_key_of_a_role_signs(signer: GnupgSigner, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"of a file")
    assert signer.detached(ROLE, b"content") == signature(NAME, b"content")
    assert signer.detached_file(ROLE, tmp_path / "file") == signature(NAME, b"of a file")
    assert signer.inline(ROLE, b"content") == inline(NAME, b"content")
    assert signer.detached(Role.CDIMAGE, b"content") == signature("coreimage cdimage rsa3072", b"content")
    assert (signer.has(ROLE), signer.fingerprint(ROLE)) == (True, fingerprint(NAME))


def test_what_a_role_signed_is_verified_with_its_keys_alone(signer: GnupgSigner, tmp_path: Path) -> None:
    made = signer.detached(ROLE, b"content")
    (tmp_path / "file").write_bytes(b"content")
    for content in (b"content", tmp_path / "file"):
        assert signer.verify(ROLE, content, made) == fingerprint(NAME)
    assert signer.open_inline(ROLE, signer.inline(ROLE, b"content")) == b"content"
    assert signs(made, b"content", ROLE, signer)
    with pytest.raises(VerificationError, match="not in the keyring") as raised:
        signer.verify(Role.CDIMAGE, b"content", made, where="x")
    assert raised.value.where == "x"
    with pytest.raises(VerificationError) as raised:
        signer.open_inline(Role.CDIMAGE, signer.inline(ROLE, b"content"), where="x")
    assert raised.value.where == "x"


def test_keys_are_asked_for_once(signer: GnupgSigner, gnupg: Gnupg) -> None:
    for _ in range(2):
        signer.fingerprint(ROLE)
        signer.public_key(ROLE)
    assert sorted(call[-1] for call in gnupg.calls) == ["--export", "--list-keys"]


def test_a_public_key_from_elsewhere_verifies(signer: GnupgSigner, keys: KeyFolder) -> None:
    keys.home(ROLE).rename(keys.path / "moved")
    keys.public_file(ROLE).parent.mkdir()
    keys.public_file(ROLE).write_text("elsewhere")
    assert (signer.has(ROLE), signer.fingerprint(ROLE)) == (False, fingerprint("elsewhere"))
    assert signer.public_key(ROLE) == b"elsewhere"
    assert signer.verify(ROLE, b"content", signature("elsewhere", b"content")) == fingerprint("elsewhere")
    for sign in (signer.detached, signer.inline):
        with pytest.raises(HostError, match="kept elsewhere") as raised:
            sign(ROLE, b"content")
        assert raised.value.where == str(keys.home(ROLE))
        assert "keys export" in raised.value.resolution


def test_a_private_key_counts_before_a_public_one_of_the_role(signer: GnupgSigner, keys: KeyFolder) -> None:
    keys.public_file(ROLE).parent.mkdir()
    keys.public_file(ROLE).write_text("elsewhere")
    assert (signer.fingerprint(ROLE), signer.public_key(ROLE)) == (fingerprint(NAME), NAME.encode())
    assert signer.detached(ROLE, b"content") == signature(NAME, b"content")


def test_former_and_next_keys_count_and_do_not_sign(keys: KeyFolder, gnupg: Gnupg) -> None:
    adopt_lost_key(keys.path, ROLE, "A" * 40, b"lost", 1_800_000_000)
    adopt_lost_key(keys.path, ROLE, "B" * 40, b"over", 1)
    (keys.retired_home(ROLE, "B" * 40) / "until").unlink()
    create_next_key(keys.path, ROLE, bits=2048, run=gnupg)
    signer = GnupgSigner(keys.path, run=gnupg)
    assert signer.public_key(ROLE) == f"{NAME}lost{NEXT}".encode(), "the current one first"
    assert signer.fingerprint(ROLE) == fingerprint(NAME)
    assert GnupgSigner(keys.path, run=gnupg).detached(ROLE, b"x") == signature(NAME, b"x")


def test_what_gpg_says_is_in_the_error(signer: GnupgSigner, gnupg: Gnupg) -> None:
    gnupg.fails = True
    with pytest.raises(HostError, match="GnuPG failed:\ngpg: no room") as raised:
        signer.detached(ROLE, b"content")
    assert "keys show" in raised.value.resolution
    assert "gnupg-" in raised.value.where


# Making keys


def test_keys_are_made_whole_and_only_where_there_are_none(tmp_path: Path, gnupg: Gnupg) -> None:
    folder = tmp_path / "deep" / "keys"
    assert create_keys(folder, bits={**KEY_BITS, Role.CDIMAGE: 2048}, label="test", run=gnupg) == list(Role)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted(role.value for role in Role)
    for role, bits in {**KEY_BITS, Role.CDIMAGE: 2048}.items():
        home = KeyFolder(folder).home(role)
        assert (home / "pubring.kbx").read_text() == f"test {role.value} rsa{bits}"
        assert sorted(path.name for path in home.iterdir()) == ["openpgp-revocs.d", "private-keys-v1.d", "pubring.kbx"]
        assert home.stat().st_mode & 0o777 == 0o700
    gnupg.calls.clear()
    (folder / ".new-cdimage-killed").mkdir()
    assert create_keys(folder, run=gnupg) == []
    assert gnupg.calls == []
    assert not (folder / ".new-cdimage-killed").exists(), "what a killed run left"


def test_a_role_whose_key_is_elsewhere_gets_none(tmp_path: Path, gnupg: Gnupg) -> None:
    keys = KeyFolder(tmp_path / "keys")
    keys.public_file(Role.ARCHIVE_MASTER).parent.mkdir(parents=True)
    keys.public_file(Role.ARCHIVE_MASTER).write_bytes(b"public")
    assert create_keys(keys.path, run=gnupg) == [role for role in Role if role is not Role.ARCHIVE_MASTER]


def test_a_key_that_could_not_be_made_leaves_nothing(tmp_path: Path, gnupg: Gnupg) -> None:
    gnupg.fails = True
    with pytest.raises(HostError, match="GnuPG failed"):
        create_keys(tmp_path / "keys", run=gnupg)
    assert list((tmp_path / "keys").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, gnupg: Gnupg) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"cannot write keys: (Not a directory|File exists)") as raised:
        create_keys(tmp_path / "file" / "keys", run=gnupg)
    assert raised.value.where == str(tmp_path / "file" / "keys")
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno in {errno.ENOTDIR, errno.EEXIST}


def test_a_next_key_is_made_once_and_signs_after_the_switch(keys: KeyFolder, gnupg: Gnupg) -> None:
    for _ in range(2):
        create_next_key(keys.path, ROLE, bits=2048, run=gnupg)
    assert len(gnupg.calls) == 1
    assert fingerprint_in_home(keys.home(ROLE), gnupg) == fingerprint(NAME)
    assert exported_key(keys.next_home(ROLE), gnupg) == NEXT.encode()
    switch_keys(keys.path, ROLE, 1_800_000_000, run=gnupg)
    signer = GnupgSigner(keys.path, run=gnupg)
    assert signer.fingerprint(ROLE) == fingerprint(NEXT)
    assert signer.public_key(ROLE) == f"{NEXT}{NAME}".encode()
    (former,) = keys.overlapping(ROLE)
    assert (former.fingerprint, former.until) == (fingerprint(NAME), 1_800_000_000)


@pytest.mark.parametrize("command", ["create", "next"])
def test_a_switch_that_was_killed_half_way_is_finished(command: str, keys: KeyFolder, gnupg: Gnupg) -> None:
    create_next_key(keys.path, ROLE, bits=2048, run=gnupg)
    keys.retired_home(ROLE, fingerprint(NAME)).parent.mkdir()
    keys.home(ROLE).rename(keys.retired_home(ROLE, fingerprint(NAME)))
    if command == "create":
        assert create_keys(keys.path, run=gnupg) == []
    else:
        create_next_key(keys.path, ROLE, bits=2048, run=gnupg)
    assert exported_key(keys.home(ROLE), gnupg) == NEXT.encode()
    assert not keys.next_home(ROLE).exists()


def test_a_next_key_does_not_take_the_place_of_one_that_never_was(keys: KeyFolder, gnupg: Gnupg) -> None:
    """A private key that is gone without a switch may come back from where it is."""
    create_next_key(keys.path, ROLE, bits=2048, run=gnupg)
    keys.home(ROLE).rename(keys.path / "moved")
    create_next_key(keys.path, ROLE, bits=2048, run=gnupg)
    assert keys.next_home(ROLE).exists()
    assert not keys.home(ROLE).exists()
