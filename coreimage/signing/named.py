"""Objects in a store that say, signed, which object a name means."""

from __future__ import annotations

from contextlib import suppress

from coreimage.errors import ConflictError, VerificationError
from coreimage.model import OPENPGP_MESSAGE
from coreimage.signing.gpgv import open_inline
from coreimage.signing.roles import Role, Signer
from coreimage.storage import Store

_ATTEMPTS = 50


def name_object(key: str, document: bytes, *, store: Store, signer: Signer) -> bool:
    """Makes the OpenPGP message at `key` say `document`, signed by image-signing; whether it had to be written.

    One that says it already stays as it is; of several who write at the same time, the last one is right. Raises
    ConflictError when others write all the time.
    """
    for _ in range(_ATTEMPTS):
        before = store.head(key)
        if before is not None and _says(key, document, store, signer):
            return False
        message = signer.inline(Role.IMAGE_SIGNING, document)
        expected = {"if_match": before.etag} if before else {}
        with suppress(ConflictError):
            store.put_bytes(key, message, media_type=OPENPGP_MESSAGE, if_absent=before is None, **expected)
            return True
    raise ConflictError(f"{key} changes all the time", where=store.url, resolution="run again")


def _says(key: str, document: bytes, store: Store, signer: Signer) -> bool:
    with store.open(key) as file, suppress(VerificationError):
        return open_inline(file.read(), [signer.public_key(Role.IMAGE_SIGNING)], where=key)[1] == document
    return False
