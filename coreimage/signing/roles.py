"""Who signs, and what a signer can do."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Role(StrEnum):
    """Who signs what (system-image §1.2); `cdimage` signs the SHA256SUMS of published builds."""

    ARCHIVE_MASTER = "archive-master"
    IMAGE_MASTER = "image-master"
    IMAGE_SIGNING = "image-signing"
    CDIMAGE = "cdimage"


class Signer(Protocol):
    """Signs with the primary key of a role. Raises HostError when the key is not on this machine."""

    def detached(self, role: Role, content: bytes) -> bytes:
        """An ASCII-armoured detached signature."""
        ...

    def detached_file(self, role: Role, path: Path) -> bytes: ...

    def inline(self, role: Role, content: bytes) -> bytes:
        """One OpenPGP message that holds the content, uncompressed, and its signature."""
        ...

    def has(self, role: Role) -> bool:
        """Whether the private key is on this machine."""
        ...

    def fingerprint(self, role: Role) -> str:
        """Of the key that signs now."""
        ...

    def public_key(self, role: Role) -> bytes:
        """The binary export of the public keys that count for the role, which is a keyring for `verify_detached`: the
        current one first; while a key is being replaced, also the one before or after it."""
        ...
