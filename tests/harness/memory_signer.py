"""A signer that starts no process: for unit tests of what is signed and verified, where GnuPG itself is not meant."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from coreimage.client import primary_fingerprints
from coreimage.errors import HostError, VerificationError
from coreimage.signing import Role


def literal(content: bytes) -> bytes:
    """An OpenPGP packet of literal data, with a length of four bytes (RFC 9580 §4.2.1)."""
    return b"\xcb\xff" + len(content).to_bytes(4, "big") + content


def said_in(message: bytes) -> bytes:
    """What is in a packet that `literal` made."""
    return message[6:]


class MemorySigner:
    """Signs with text that names the key and the digest of what it signs.

    Public keys have the form of OpenPGP packets, so that keyrings can be made and read.

    Attributes:
        held: The roles whose private keys are on "this machine".
        generation: Part of every key: another generation has other keys.
    """

    def __init__(self, held: Collection[Role] = tuple(Role), generation: str = "first") -> None:
        self.held, self.generation = held, generation

    def detached(self, role: Role, content: bytes) -> bytes:
        if role not in self.held:
            raise HostError(f"the {role.value} key is not on this machine")
        return f"signature {self.fingerprint(role)} {hashlib.sha256(content).hexdigest()}\n".encode()

    def detached_file(self, role: Role, path: Path) -> bytes:
        return self.detached(role, path.read_bytes())

    def inline(self, role: Role, content: bytes) -> bytes:
        return literal(self.detached(role, content) + content)

    def verify(self, role: Role, content: bytes | Path, signature: bytes, *, where: str = "") -> str:
        signed = content.read_bytes() if isinstance(content, Path) else content
        kind, fingerprint, digest, *_ = [*signature.decode(errors="replace").split(), "", "", ""]
        known = primary_fingerprints(self.public_key(role))
        if kind != "signature" or fingerprint not in known or digest != hashlib.sha256(signed).hexdigest():
            raise VerificationError("the signature is not right", where=where)
        return fingerprint

    def open_inline(self, role: Role, message: bytes, *, where: str = "") -> bytes:
        signature, _, content = said_in(message).partition(b"\n")
        self.verify(role, content, signature, where=where)
        return content

    def has(self, role: Role) -> bool:
        return role in self.held

    def fingerprint(self, role: Role) -> str:
        (fingerprint,) = primary_fingerprints(self.public_key(role))
        return fingerprint

    def public_key(self, role: Role) -> bytes:
        body = b"\x04" + f"{role.value} {self.generation}".encode()
        return b"\x99" + len(body).to_bytes(2, "big") + body
