"""Keyring tarballs (system-image §1.3) and the fingerprints of the keys in them."""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import tarfile
from dataclasses import dataclass

from coreimage.client.errors import RepositoryError
from coreimage.client.json_codec import JsonObject, json_object, optional_text, text
from coreimage.client.openpgp import PacketError, packets

KEYRING_LIMIT_BYTES = 4 << 20
_MEMORY_BYTES = 256 << 20
_PUBLIC_KEY = 6
_V4 = 4
_KEY_LIMIT_BYTES = 0xFFFF
"""Fingerprints of version 4 are of a length in two bytes."""


@dataclass(frozen=True)
class Keyring:
    """What a keyring tarball holds.

    Attributes:
        kind: `archive-master`, `image-master`, `image-signing`, `device-signing` or `blacklist`.
        keys: A binary export of public keys; it may be empty.
        expiry: UNIX seconds from which on the keyring does not count; None: it never expires.
        model: The only device that the keyring is for; None: all.
    """

    kind: str
    keys: bytes
    expiry: float | None
    model: str | None


def read_keyring(tarball: bytes, kind: str, *, now: float, device: str = "", where: str = "") -> Keyring:
    """Read a keyring tarball.

    Args:
        tarball: What was fetched, or given.
        kind: The kind that the keyring must be of.
        now: UNIX seconds.
        device: The device that the keyring must be fit for; empty: any.
        where: What errors are about.

    Raises:
        RepositoryError: The keyring is malformed, of another kind, for another device, or expired.
    """
    members = _members(tarball, where)
    try:
        described, keys = members["keyring.json"], members["keyring.gpg"]
    except KeyError as error:
        raise RepositoryError(f"the keyring has no member {error.args[0]}", where=where) from None
    values = json_object(described, where)
    keyring = Keyring(text(values, "type", where), keys, _expiry(values, where), optional_text(values, "model", where))
    if keyring.kind != kind:
        raise RepositoryError(f"the keyring is of type {keyring.kind!r}, not {kind!r}", where=where)
    if keyring.expiry is not None and keyring.expiry <= now:
        raise RepositoryError(f"the {kind} keyring has expired", where=where)
    if keyring.model is not None and device and keyring.model != device:
        raise RepositoryError(f"the keyring is for {keyring.model!r}, not {device!r}", where=where)
    return keyring


def primary_fingerprints(keys: bytes) -> frozenset[str]:
    """Return the fingerprints of the version 4 primary keys of a binary export, in upper case (RFC 4880 §4.2, §12.2).

    Raises RepositoryError for what is no export of keys.
    """
    try:
        bodies = [body for tag, body in packets(keys) if tag == _PUBLIC_KEY and body[:1] == bytes([_V4])]
    except PacketError as error:
        raise RepositoryError(f"the keyring holds {error}") from error
    fingerprints = set()
    for body in bodies:
        if len(body) > _KEY_LIMIT_BYTES:
            raise RepositoryError("the keyring holds a key that is too long")
        content = b"\x99" + len(body).to_bytes(2, "big") + body
        fingerprints.add(hashlib.sha1(content, usedforsecurity=False).hexdigest().upper())
    return frozenset(fingerprints)


def _members(tarball: bytes, where: str) -> dict[str, bytes]:
    try:
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES)
        plain = unpacker.decompress(tarball, KEYRING_LIMIT_BYTES)
        if not unpacker.eof:
            raise RepositoryError("the keyring tarball is truncated or too large", where=where)
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            files = {member.name: tar.extractfile(member) for member in tar if member.isreg()}
            return {name: file.read() for name, file in files.items() if file}
    except (lzma.LZMAError, tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise RepositoryError(f"not a keyring tarball: {error}", where=where) from error


def _expiry(values: JsonObject, where: str) -> float | None:
    expiry = values.get("expiry")
    if expiry is None:
        return None
    if isinstance(expiry, bool) or not isinstance(expiry, int | float) or not math.isfinite(expiry):
        raise RepositoryError("the keyring's expiry is not a number", where=where)
    return expiry
