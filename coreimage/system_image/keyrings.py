"""The keyrings below `gpg/` (system-image §1.2): who is trusted, signed by who trusts them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from coreimage.client import Keyring, RepositoryError, primary_fingerprints, read_keyring
from coreimage.client.session import keyring_signature_path
from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import OPENPGP_SIGNATURE, TAR_XZ
from coreimage.signing import Role, Signer, make_keyring, verify_detached
from coreimage.storage import Store
from coreimage.system_image import layout

log = structlog.get_logger("coreimage.system_image")

IMAGE_SIGNING_LIFETIME = timedelta(days=730)
"""Two years, as the original's."""
_RENEWED_BEFORE = timedelta(days=365)

_SIGNED_BY = {
    "archive-master": Role.ARCHIVE_MASTER,
    "image-master": Role.ARCHIVE_MASTER,
    "image-signing": Role.IMAGE_MASTER,
    "blacklist": Role.IMAGE_MASTER,
}


def publish_keyrings(*, store: Store, signer: Signer, now: Callable[[], datetime]) -> list[str]:
    """Publishes the keyrings that are missing, of other keys, or near their end; gives their types.

    A keyring that is right keeps its bytes. The blacklist starts empty and is never emptied here.
    """
    heal_keyrings(store=store)
    published = [kind for kind in _SIGNED_BY if not _is_right(kind, store, signer, now())]
    for kind in published:
        _publish(kind, store, signer, now())
        log.info("keyring published", keyring=kind)
    return published


def heal_keyrings(*, store: Store) -> bool:
    """Puts the signature beside each keyring that has another's there; whether anything had to be written.

    Needs no key: every keyring was signed before it was published, under the name of its digest.
    """
    healed = [_heal(kind, store) for kind in _SIGNED_BY]
    return any(healed)


def _heal(kind: str, store: Store) -> bool:
    key = layout.key(layout.keyring(kind))
    tarball = _read(store, key)
    signature = tarball and _read(store, layout.key(keyring_signature_path(kind, tarball)))
    if not signature or _read(store, f"{key}.asc") == signature:
        return False
    store.put_bytes(f"{key}.asc", signature, media_type=OPENPGP_SIGNATURE)
    return True


def _publish(kind: str, store: Store, signer: Signer, now: datetime) -> None:
    """First the signature under its own name, then the keyring, which readers of ours can use from then on; last the
    signature under the name that old clients know."""
    expiry = int((now + IMAGE_SIGNING_LIFETIME).timestamp()) if kind == "image-signing" else None
    tarball = make_keyring(kind, _keys(kind, signer), expiry=expiry)
    named = layout.key(keyring_signature_path(kind, tarball))
    with suppress(ConflictError):
        signature = signer.detached(_SIGNED_BY[kind], tarball)
        store.put_bytes(named, signature, media_type=OPENPGP_SIGNATURE, if_absent=True)
    store.put_bytes(layout.key(layout.keyring(kind)), tarball, media_type=TAR_XZ)
    _heal(kind, store)


def _is_right(kind: str, store: Store, signer: Signer, now: datetime) -> bool:
    key = layout.key(layout.keyring(kind))
    tarball, signature = _read(store, key), _read(store, f"{key}.asc")
    if tarball is None or signature is None:
        return False
    try:
        verify_detached(tarball, signature, [signer.public_key(_SIGNED_BY[kind])])
        keyring = read_keyring(tarball, kind, now=(now + _RENEWED_BEFORE).timestamp(), where=key)
    except (VerificationError, RepositoryError):
        return False
    return _trusts_the_right(keyring, signer)


def _read(store: Store, key: str) -> bytes | None:
    try:
        with store.open(key) as file:
            return file.read()
    except NotFoundError:
        return None


def _trusts_the_right(keyring: Keyring, signer: Signer) -> bool:
    if keyring.kind == "blacklist":
        return True
    return primary_fingerprints(keyring.keys) == primary_fingerprints(_keys(keyring.kind, signer))


def _keys(kind: str, signer: Signer) -> bytes:
    return b"" if kind == "blacklist" else signer.public_key(Role(kind))
