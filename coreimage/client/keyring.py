"""Keyring tarballs (system-image §1.3) and the fingerprints of the keys in them."""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from coreimage.client.errors import RepositoryError
from coreimage.client.json_reader import json_object, text

KEYRING_LIMIT_BYTES = 4 << 20
_MEMORY_BYTES = 256 << 20
_PUBLIC_KEY = 6
_V4 = 4


@dataclass(frozen=True)
class Keyring:
    """`expiry` is UNIX seconds, UTC; None never expires. `keys` is a binary export, maybe empty."""

    kind: str
    keys: bytes
    expiry: float | None
    model: str | None


def read_keyring(tarball: bytes, kind: str, *, now: float, device: str = "", where: str = "") -> Keyring:
    """Raises RepositoryError when it is malformed, of another type, for another device, or expired."""
    members = _members(tarball, where)
    try:
        described, keys = members["keyring.json"], members["keyring.gpg"]
    except KeyError as error:
        raise RepositoryError(f"the keyring has no member {error.args[0]}", where=where) from None
    values = json_object(described, where)
    keyring = Keyring(text(values, "type", where), keys, _expiry(values, where), _model(values, where))
    if keyring.kind != kind:
        raise RepositoryError(f"the keyring is of type {keyring.kind!r}, not {kind!r}", where=where)
    if keyring.expiry is not None and keyring.expiry <= now:
        raise RepositoryError(f"the {kind} keyring has expired", where=where)
    if keyring.model is not None and device and keyring.model != device:
        raise RepositoryError(f"the keyring is for {keyring.model!r}, not {device!r}", where=where)
    return keyring


def primary_fingerprints(keys: bytes) -> frozenset[str]:
    """Fingerprints of the version 4 primary keys of a binary export, upper case (RFC 4880 §4.2, §12.2)."""
    return frozenset(
        hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
        for tag, body in _packets(keys)
        if tag == _PUBLIC_KEY and body[:1] == bytes([_V4])
    )


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


def _expiry(values: dict[str, object], where: str) -> float | None:
    expiry = values.get("expiry")
    if expiry is None:
        return None
    if isinstance(expiry, bool) or not isinstance(expiry, int | float) or not math.isfinite(expiry):
        raise RepositoryError("the keyring's expiry is not a number", where=where)
    return expiry


def _model(values: dict[str, object], where: str) -> str | None:
    return None if values.get("model") is None else text(values, "model", where)


def _packets(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        tag, start, length = _header(content, at)
        if start + length > len(content):
            raise RepositoryError("the keyring holds a truncated key")
        yield tag, content[start : start + length]
        at = start + length


def _header(content: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start of the body and its length; partial lengths do not occur in keys."""
    first = content[at]
    if not first & 0x80:
        raise RepositoryError("the keyring holds something that is no OpenPGP key")
    if first & 0x40:
        width, offset = _new_length(content, at + 1)
        return first & 0x3F, at + 1 + width, offset
    width = 1 << (first & 3)
    if width == 8:  # noqa: PLR2004
        raise RepositoryError("the keyring holds a key of unknown length")
    return (first >> 2) & 0x0F, at + 1 + width, int.from_bytes(content[at + 1 : at + 1 + width], "big")


def _new_length(content: bytes, at: int) -> tuple[int, int]:
    octets = content[at : at + 5] + bytes(5)
    if octets[0] < 192:  # noqa: PLR2004
        return 1, octets[0]
    if octets[0] < 224:  # noqa: PLR2004
        return 2, ((octets[0] - 192) << 8) + octets[1] + 192
    if octets[0] == 255:  # noqa: PLR2004
        return 5, int.from_bytes(octets[1:5], "big")
    raise RepositoryError("the keyring holds a key of unknown length")
