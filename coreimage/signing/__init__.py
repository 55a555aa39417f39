"""GnuPG: keys, keyrings, signatures."""

from coreimage.signing.folder import KeyFolder, Retired
from coreimage.signing.gpgv import open_inline, verify_detached
from coreimage.signing.keyrings import make_keyring
from coreimage.signing.keys import (
    KEY_BITS,
    GnupgSigner,
    adopt_lost_key,
    create_keys,
    create_next_key,
    exported_key,
    switch_keys,
    write_backup,
)
from coreimage.signing.named import name_object
from coreimage.signing.ours import says, signs
from coreimage.signing.packets import issuer_of
from coreimage.signing.roles import Role, Signer

__all__ = [
    "KEY_BITS",
    "GnupgSigner",
    "KeyFolder",
    "Retired",
    "Role",
    "Signer",
    "adopt_lost_key",
    "create_keys",
    "create_next_key",
    "exported_key",
    "issuer_of",
    "make_keyring",
    "name_object",
    "open_inline",
    "says",
    "signs",
    "switch_keys",
    "verify_detached",
    "write_backup",
]
