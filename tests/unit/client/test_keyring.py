"""Keyring tarballs that are wrong in every way, and OpenPGP packets of every length."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile

import pytest

from coreimage.client import RepositoryError, primary_fingerprints, read_keyring
from coreimage.client import keyring as keyring_module
from coreimage.signing import make_keyring


def tarball(members: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            tar.addfile(member, io.BytesIO(content))
    return lzma.compress(plain.getvalue())


def body(name: bytes, version: int = 4) -> bytes:
    return bytes([version]) + name


def fingerprint(content: bytes) -> str:
    return hashlib.sha1(b"\x99" + len(content).to_bytes(2, "big") + content).hexdigest().upper()  # noqa: S324


def old(content: bytes, tag: int = 6, kind: int = 1) -> bytes:
    """A packet of the old format; `kind` 0, 1 or 2 is a length of 1, 2 or 4 bytes."""
    return bytes([0x80 | tag << 2 | kind]) + len(content).to_bytes(1 << kind, "big") + content


def new(content: bytes, tag: int = 6) -> bytes:
    """A packet of the new format."""
    size = len(content)
    if size < 192:
        length = bytes([size])
    elif size < 8384:
        length = bytes([192 + (size - 192 >> 8), size - 192 & 0xFF])
    else:
        length = b"\xff" + size.to_bytes(4, "big")
    return bytes([0xC0 | tag]) + length + content


@pytest.mark.parametrize("size", [2, 191, 192, 193, 450, 8383, 8384, 65_535])
def test_keys_of_every_length_are_read(size: int) -> None:
    content = body(b"x" * (size - 1))
    two = body(b"second")
    for packet in (new(content), old(content, kind=2), old(content)):
        assert primary_fingerprints(packet + old(two)) == {fingerprint(content), fingerprint(two)}
        assert primary_fingerprints(new(two) + packet) == {fingerprint(content), fingerprint(two)}


def test_only_primary_keys_of_version_4_have_a_fingerprint() -> None:
    first = body(b"a")
    others = [old(body(b"subkey"), tag=14), new(b"user id", tag=13), old(body(b"six", version=6)), old(b"", kind=0)]
    assert primary_fingerprints(b"".join([*others, old(first, kind=0), *others])) == {fingerprint(first)}
    assert primary_fingerprints(b"") == frozenset()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x7f", "no OpenPGP key"),
        (old(body(b"a")) + b"text", "no OpenPGP key"),
        (bytes([0x80 | 6 << 2 | 3]) + b"x", "unknown length"),
        (bytes([0xC6, 224]) + b"x", "unknown length"),
        (bytes([0xC6, 254]) + b"x", "unknown length"),
        (old(body(b"a"))[:-1], "truncated"),
        (new(body(b"a" * 300))[:-1], "truncated"),
        (b"\xc6\xff\x7f", "truncated"),
        (b"\x99\x01", "truncated"),
        (new(body(b"x" * 65_535)), "too long"),
    ],
)
def test_what_is_no_export_of_keys_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(RepositoryError, match=problem):
        primary_fingerprints(content)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated"),
        (b"this is no xz file", "not a keyring tarball"),
        (lzma.compress(b"no tar" * 200), "not a keyring tarball"),
        (tarball({"keyring.json": b"{}"}), "no member keyring.gpg"),
        (tarball({"keyring.gpg": b""}), "no member keyring.json"),
        (tarball({"keyring.json": b"", "keyring.gpg": b""}, kind=tarfile.DIRTYPE), "no member keyring.json"),
        (tarball({"keyring.json": b"[]", "keyring.gpg": b""}), "not an object"),
        (tarball({"keyring.json": b"{}", "keyring.gpg": b""}), "'type' is missing"),
        (tarball({"keyring.json": b'{"type": "x", "model": 1}', "keyring.gpg": b""}), "'model' is missing"),
        (tarball({"keyring.json": b'{"type": "x", "expiry": "1"}', "keyring.gpg": b""}), "expiry is not a number"),
        (tarball({"keyring.json": b'{"type": "x", "expiry": NaN}', "keyring.gpg": b""}), "expiry is not a number"),
        (tarball({"keyring.json": b'{"type": "x", "expiry": true}', "keyring.gpg": b""}), "expiry is not a number"),
        (make_keyring("y", b""), "of type 'y', not 'x'"),
        (make_keyring("x", b"", expiry=100), "the x keyring has expired"),
        (make_keyring("x", b"", model="other"), "for 'other', not 'device'"),
    ],
)
def test_a_wrong_keyring_is_refused_by_its_place(content: bytes, problem: str) -> None:
    with pytest.raises(RepositoryError, match=problem) as refused:
        read_keyring(content, "x", now=100, device="device", where="gpg/x.tar.xz")
    assert refused.value.where == "gpg/x.tar.xz"


def test_a_right_keyring_says_what_it_is_for() -> None:
    content = make_keyring("x", b"keys", expiry=101, model="device")
    for device in ("device", ""):
        keyring = read_keyring(content, "x", now=100, device=device)
        assert (keyring.kind, keyring.keys, keyring.expiry, keyring.model) == ("x", b"keys", 101, "device")
    assert read_keyring(make_keyring("x", b""), "x", now=100, device="device").model is None
    fraction = tarball({"keyring.json": b'{"type": "x", "expiry": 100.5}', "keyring.gpg": b""})
    assert read_keyring(fraction, "x", now=100).expiry == 100.5


def test_a_keyring_unpacks_to_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    content = make_keyring("x", b"keys")
    size_bytes = len(lzma.decompress(content))
    monkeypatch.setattr(keyring_module, "KEYRING_LIMIT_BYTES", size_bytes + 1)
    assert read_keyring(content, "x", now=0).keys == b"keys"
    monkeypatch.setattr(keyring_module, "KEYRING_LIMIT_BYTES", size_bytes - 1)
    with pytest.raises(RepositoryError, match="truncated or too large"):
        read_keyring(content, "x", now=0)
