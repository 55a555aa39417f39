"""Objects in a store that say, signed, which object a name means."""

from __future__ import annotations

from coreimage.model import OPENPGP_MESSAGE
from coreimage.signing.ours import says
from coreimage.signing.roles import Role, Signer
from coreimage.storage import Store, swap


def name_object(key: str, document: bytes, *, store: Store, signer: Signer) -> bool:
    """Makes the OpenPGP message at `key` say `document`, signed by image-signing; whether it had to be written.

    One that says it already stays as it is; of several who write at the same time, the last one is right. Raises
    ConflictError when others write all the time.
    """

    def saying(found: bytes | None) -> bytes:
        if found is not None and says(found, document, signer):
            return found
        return signer.inline(Role.IMAGE_SIGNING, document)

    return swap(store, key, saying, media_type=OPENPGP_MESSAGE)
