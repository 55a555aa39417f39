"""GnuPG: keys, keyrings, signatures."""

from coreimage.signing.gnupg import exported_key
from coreimage.signing.keyrings import make_keyring
from coreimage.signing.keys import (
    KEY_BITS,
    KeyFolder,
    RetiredKey,
    Role,
    adopt_lost_key,
    create_keys,
    create_next_key,
    switch_keys,
    write_backup,
)
from coreimage.signing.signatures import issuer_of, open_inline, verify_detached
from coreimage.signing.signer import GnupgSigner, Signer, name_object, says, signs

__all__ = [
    "KEY_BITS",
    "GnupgSigner",
    "KeyFolder",
    "RetiredKey",
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
