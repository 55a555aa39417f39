"""Signatures (§1.4) and keyring tarballs (§1.3). What was verified once is remembered: many trees share their files."""

from __future__ import annotations

import functools
import hashlib
import io
import lzma
import re
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.harness.strict_client.refusal import BadSignatureError, json_object, require

_STRONG = {"8", "9", "10"}
"""SHA-256, SHA-384 and SHA-512 (RFC 4880 §9.4)."""


@dataclass(frozen=True)
class Keyring:
    kind: str
    keys: bytes
    expiry: int | None
    model: str | None


_verified: set[tuple[bytes, bytes, tuple[bytes, ...], frozenset[str]]] = set()


def verify(content: bytes, signature: bytes, keyrings: tuple[bytes, ...], refused: frozenset[str], name: str) -> None:
    """Accepts one detached, armoured signature by a primary key of `keyrings` that is not refused."""
    known = hashlib.sha256(content).digest(), signature, keyrings, refused
    if known not in _verified:
        _verify(content, signature, keyrings, refused, name)
        _verified.add(known)


def _verify(content: bytes, signature: bytes, keyrings: tuple[bytes, ...], refused: frozenset[str], name: str) -> None:
    require(signature.startswith(b"-----BEGIN PGP SIGNATURE-----"), f"the signature of {name} is armoured")
    with tempfile.TemporaryDirectory() as home:
        for file, text in (("content", content), ("content.asc", signature)):
            Path(home, file).write_bytes(text)
        status = _gpg(home, keyrings, "--status-fd", "1", "--verify", f"{home}/content.asc", f"{home}/content")
    valid = [line.split() for line in status.splitlines() if line.startswith("[GNUPG:] VALIDSIG")]
    if len(valid) != 1:
        raise BadSignatureError(f"{name} has {len(valid)} valid signatures")
    fingerprint, digest = valid[0][2], valid[0][9]
    accepted = frozenset[str]().union(*(primaries(keys) for keys in keyrings)) - refused
    if fingerprint not in accepted:
        raise BadSignatureError(f"{name} is signed by a subkey, a stranger, or a key on the blacklist")
    require(digest in _STRONG, f"{name} has a weak digest")


@functools.lru_cache(maxsize=256)
def primaries(keys: bytes) -> frozenset[str]:
    """Fingerprints of primary keys; none for an empty keyring."""
    if not keys:
        return frozenset()
    with tempfile.TemporaryDirectory() as home:
        listing = _gpg(home, (keys,), "--with-colons", "--fingerprint", "--list-keys")
    records = [line.split(":") for line in listing.splitlines()]
    return frozenset(after[9] for record, after in pairwise(records) if record[0] == "pub")


@functools.lru_cache(maxsize=256)
def keyring(tarball: bytes, kind: str, model: str, now: float) -> Keyring:
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(tarball, lzma.FORMAT_XZ))) as tar:
        require(tar.getnames() == ["keyring.json", "keyring.gpg"], f"members of {kind} are {tar.getnames()}")
        text, keys = (tar.extractfile(name).read() for name in tar.getnames())  # type: ignore[union-attr]
    _require_lines(text.decode(), kind)
    said = json_object(text, kind)
    require(said.get("type") == kind, f"{kind} says it is {said.get('type')}")
    require(said.get("expiry") is None or type(said["expiry"]) is int, f"{kind}: integer expiry")
    require(said.get("expiry") is None or said["expiry"] > now, f"{kind} has expired")
    require(said.get("model") in {None, model}, f"{kind} is for {said.get('model')}")
    return Keyring(kind, keys, said.get("expiry"), said.get("model"))


def _require_lines(text: str, kind: str) -> None:
    """As the recovery image reads it, with tools for lines of text (§1.3)."""
    lines = text.splitlines()
    require(lines[0] == "{" and lines[-1] == "}", f"{kind}: one key a line")
    entries = lines[1:-1]
    require(all(re.fullmatch(r' {4}"[a-z]+": [^ ].*', line) for line in entries), f"{kind}: four blanks, key: value")


def _gpg(home: str, keyrings: tuple[bytes, ...], *arguments: str) -> str:
    command = ["gpg", "--homedir", home, "--batch", "--no-autostart", "--trust-model", "always"]
    command += ["--no-default-keyring"]
    for number, keys in enumerate(keyrings):
        path = Path(home, f"keyring{number}.gpg")
        path.write_bytes(keys)
        command += ["--keyring", str(path)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    return done.stdout
