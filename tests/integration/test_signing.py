"""Real GnuPG: keys, signatures and their refusal."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from coreimage.errors import HostError, VerificationError
from coreimage.host.process import run
from coreimage.signing import GnupgSigner, Role, create_keys, name_object, open_inline, verify_detached
from coreimage.storage import Store

SMALL = dict.fromkeys(Role, 2048)


@pytest.fixture(scope="module")
def keys_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deeper than a socket path may be long."""
    folder = tmp_path_factory.mktemp("keys") / ("long" * 20) / "keys"
    assert create_keys(folder, bits=SMALL) == list(Role)
    return folder


@pytest.fixture(scope="module")
def signer(keys_folder: Path) -> GnupgSigner:
    return GnupgSigner(keys_folder)


def _agents() -> list[str]:
    mine = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"gpg-agent") and process.stat().st_uid == os.geteuid():
                mine.append(process.name)
        except OSError:
            continue
    return mine


def test_keys_are_made_once_whole_and_private(keys_folder: Path, signer: GnupgSigner) -> None:
    before = {role: signer.fingerprint(role) for role in Role}
    (keys_folder / ".new-image-signing-killed").mkdir()
    assert create_keys(keys_folder, bits=SMALL) == []
    assert {role: signer.fingerprint(role) for role in Role} == before
    assert sorted(path.name for path in keys_folder.iterdir()) == sorted(Role)
    for role in Role:
        assert stat.S_IMODE((keys_folder / role).stat().st_mode) == 0o700
        names = {path.name for path in (keys_folder / role).iterdir()}
        assert names == {"pubring.kbx", "private-keys-v1.d", "openpgp-revocs.d"}


def test_key_is_one_rsa_primary_that_signs(signer: GnupgSigner, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(signer.public_key(Role.IMAGE_SIGNING))
    tmp_path.chmod(0o700)
    show: list[str | Path] = ["gpg", "--homedir", tmp_path, "--batch", "--with-colons", "--show-keys", tmp_path / "key"]
    records = [line.split(":") for line in run(show).output.splitlines()]
    assert [record[0] for record in records if record[0] in {"pub", "sub"}] == ["pub"]
    primary = next(record for record in records if record[0] == "pub")
    assert (primary[2], primary[3], primary[6]) == ("2048", "1", "")
    assert "s" in primary[11]
    assert "e" not in primary[11]


def test_detached_signature_verifies_over_bytes_and_file(signer: GnupgSigner, tmp_path: Path) -> None:
    keyring = [signer.public_key(Role.IMAGE_SIGNING)]
    path = tmp_path / "payload"
    path.write_bytes(b"payload")
    signature = signer.detached(Role.IMAGE_SIGNING, b"payload")
    assert signature.startswith(b"-----BEGIN PGP SIGNATURE-----")
    fingerprint = signer.fingerprint(Role.IMAGE_SIGNING)
    assert verify_detached(path, signature, keyring) == fingerprint
    assert verify_detached(b"payload", signer.detached_file(Role.IMAGE_SIGNING, path), keyring) == fingerprint


def test_inline_message_gives_its_content(signer: GnupgSigner) -> None:
    content = b'{"x": "' + b"a" * 100 + b'"}\n'
    message = signer.inline(Role.IMAGE_SIGNING, content)
    assert content in message, "uncompressed, so that nothing can unfold"
    opened = open_inline(message, [signer.public_key(Role.IMAGE_SIGNING)])
    assert opened == (signer.fingerprint(Role.IMAGE_SIGNING), content)


def test_several_keyrings_one_of_them_empty(signer: GnupgSigner) -> None:
    keyrings = [b"", signer.public_key(Role.CDIMAGE), signer.public_key(Role.IMAGE_SIGNING)]
    signature = signer.detached(Role.IMAGE_SIGNING, b"x")
    assert verify_detached(b"x", signature, keyrings) == signer.fingerprint(Role.IMAGE_SIGNING)


def test_signers_do_not_leave_agents(signer: GnupgSigner) -> None:
    before = set(_agents())
    signer.detached(Role.CDIMAGE, b"x")
    assert set(_agents()) - before == set()


def test_tampered_foreign_blacklisted_and_missing_signatures_are_refused(signer: GnupgSigner) -> None:
    keyring = [signer.public_key(Role.IMAGE_SIGNING)]
    good = signer.detached(Role.IMAGE_SIGNING, b"payload")
    foreign = signer.detached(Role.CDIMAGE, b"payload")
    blacklist = {signer.fingerprint(Role.IMAGE_SIGNING)}
    for content, signature, refused in (
        (b"other", good, ()),
        (b"payload", foreign, ()),
        (b"payload", good, blacklist),
        (b"payload", b"", ()),
        (b"payload", b"nonsense", ()),
        (b"payload", signer.inline(Role.IMAGE_SIGNING, b"payload"), ()),
        (b"payload", good[: len(good) // 2], ()),
    ):
        with pytest.raises(VerificationError):
            verify_detached(content, signature, keyring, refused=refused)


def test_two_signatures_are_refused(signer: GnupgSigner) -> None:
    keyring = [signer.public_key(Role.IMAGE_SIGNING), signer.public_key(Role.CDIMAGE)]
    both = signer.detached(Role.IMAGE_SIGNING, b"x") + signer.detached(Role.CDIMAGE, b"x")
    with pytest.raises(VerificationError):
        verify_detached(b"x", both, keyring)


def test_message_with_appended_content_is_refused(signer: GnupgSigner) -> None:
    keyring = [signer.public_key(Role.IMAGE_SIGNING)]
    message = signer.inline(Role.IMAGE_SIGNING, b"one")
    for hostile in (message + message, b"", b"one", signer.detached(Role.IMAGE_SIGNING, b"one"), message[:-5]):
        with pytest.raises(VerificationError):
            open_inline(hostile, keyring)


def _expired_or_revoked(folder: Path, how: str) -> tuple[bytes, bytes, bytes]:
    """A signature over `x`, the key as it was when valid, and the key as it is now."""
    folder.mkdir(mode=0o700)
    gpg: list[str | Path] = [
        "gpg",
        "--homedir",
        folder,
        "--batch",
        "--yes",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
    ]
    past: list[str | Path] = ["--faked-system-time", "20200101T000000!"]
    run([*gpg, *past, "--quick-generate-key", "old", "rsa2048", "sign", "1d" if how == "expired" else "never"])
    run([*gpg, *past, "--armor", "--output", folder / "sig", "--detach-sign"], stdin=b"x")
    run([*gpg, "--output", folder / "before", "--export"])
    if how == "revoked":
        revocation = next((folder / "openpgp-revocs.d").iterdir())
        revocation.write_text(revocation.read_text().replace(":-----BEGIN", "-----BEGIN"))
        run([*gpg, "--import", revocation])
    run([*gpg, "--output", folder / "after", "--export"])
    run(["gpgconf", "--homedir", folder, "--kill", "gpg-agent"])
    return (folder / "sig").read_bytes(), (folder / "before").read_bytes(), (folder / "after").read_bytes()


def test_revoked_key_is_refused(tmp_path: Path) -> None:
    signature, before, after = _expired_or_revoked(tmp_path / "home", "revoked")
    verify_detached(b"x", signature, [before])
    with pytest.raises(VerificationError, match="revoked"):
        verify_detached(b"x", signature, [after])


def test_expired_key_is_refused(tmp_path: Path) -> None:
    signature, _, after = _expired_or_revoked(tmp_path / "home", "expired")
    with pytest.raises(VerificationError, match="key that has expired"):
        verify_detached(b"x", signature, [after])


def test_missing_key_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="keys init"):
        GnupgSigner(tmp_path).detached(Role.CDIMAGE, b"x")


def test_of_several_who_name_an_object_at_the_same_time_none_fails(signer: GnupgSigner, store: Store) -> None:
    key, documents = "oem/gadget.json.gpg", [b"one", b"another"] * 4
    with ThreadPoolExecutor(len(documents)) as pool:
        written = list(pool.map(partial(name_object, key, store=store, signer=signer), documents))
    assert any(written)
    with store.open(key) as file:
        said = open_inline(file.read(), [signer.public_key(Role.IMAGE_SIGNING)])[1]
    assert said in documents
    assert not name_object(key, said, store=store, signer=signer), "what it says already stays"
