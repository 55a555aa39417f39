"""Whether what is there was signed by the key that signs now: what a former key signed is made anew."""

from __future__ import annotations

from coreimage.errors import VerificationError
from coreimage.signing.gpgv import open_inline, verify_detached
from coreimage.signing.roles import Role, Signer


def signs(signature: bytes | None, content: bytes, role: Role, signer: Signer) -> bool:
    """None is no signature."""
    try:
        made_by = verify_detached(content, signature or b"", [signer.public_key(role)])
    except VerificationError:
        return False
    return made_by == signer.fingerprint(role)


def says(message: bytes, document: bytes, signer: Signer) -> bool:
    """Of an OpenPGP message by image-signing."""
    try:
        return open_inline(message, [signer.public_key(Role.IMAGE_SIGNING)])[1] == document
    except VerificationError:
        return False
