"""GnuPG: keys, keyrings, signatures."""

from coreimage.signing.gpgv import open_inline, verify_detached
from coreimage.signing.keyrings import make_keyring
from coreimage.signing.keys import KEY_BITS, GnupgSigner, create_keys
from coreimage.signing.roles import Role, Signer

__all__ = [
    "KEY_BITS",
    "GnupgSigner",
    "Role",
    "Signer",
    "create_keys",
    "make_keyring",
    "open_inline",
    "verify_detached",
]
