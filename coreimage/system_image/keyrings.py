"""The keyrings below `gpg/` (system-image §1.2): who is trusted, signed by who trusts them.

Masters need not be on the machine that publishes: `unsigned_keyrings` gives what they must sign, and
`publish_signed_keyring` takes it back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from coreimage.client import Keyring, RepositoryError, primary_fingerprints, read_keyring
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
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

SIGNED_BY = {
    "archive-master": Role.ARCHIVE_MASTER,
    "image-master": Role.ARCHIVE_MASTER,
    "image-signing": Role.IMAGE_MASTER,
    "blacklist": Role.IMAGE_MASTER,
}
"""By the type of the keyring; in the order in which clients need them."""


def publish_keyrings(*, store: Store, signer: Signer, now: Callable[[], datetime]) -> list[str]:
    """Publishes the keyrings that are missing, of other keys, or near their end; gives their types.

    A keyring that is right keeps its bytes. The blacklist starts empty and is never emptied here. Where the master
    that must sign is elsewhere, a keyring that clients still accept stays; raises HostError when there is none.
    """
    heal_keyrings(store=store)
    due = [kind for kind in SIGNED_BY if not is_right(kind, store=store, signer=signer, now=now())]
    published = [kind for kind in due if signer.has(SIGNED_BY[kind]) or not _still_serves(kind, store, signer, now())]
    for kind in published:
        tarball = make_wanted_keyring(kind, store=store, signer=signer, now=now())
        put_keyring(kind, tarball, signer.detached(SIGNED_BY[kind], tarball), store=store)
        log.info("keyring published", keyring=kind)
    for kind in sorted(set(due) - set(published)):
        log.warning("keyring waits for its master: sign it with `coreimage keys export`", keyring=kind)
    return published


def unsigned_keyrings(*, store: Store, signer: Signer, now: datetime) -> dict[str, bytes]:
    """The keyrings that are to be published, by type, and that a master elsewhere must sign first."""
    return {
        kind: make_wanted_keyring(kind, store=store, signer=signer, now=now)
        for kind, role in SIGNED_BY.items()
        if not signer.has(role) and not is_right(kind, store=store, signer=signer, now=now)
    }


def publish_signed_keyring(
    kind: str, tarball: bytes, signature: bytes, *, store: Store, signer: Signer, now: datetime
) -> bool:
    """Publishes a keyring that was signed elsewhere; whether it was not there yet.

    Raises VerificationError unless its master signed it, it is of this kind, and trusts the keys that sign here.
    """
    verify_detached(tarball, signature, [signer.public_key(SIGNED_BY[kind])], where=kind)
    try:
        keyring = read_keyring(tarball, kind, now=now.timestamp(), where=kind)
    except RepositoryError as error:
        raise VerificationError(error.problem, where=kind, resolution="export it again") from error
    if not _trusts_the_right(keyring, signer):
        raise VerificationError(
            "it does not hold the keys that count now", where=kind, resolution="export it again: a key was replaced"
        )
    if read_object(store, layout.key(layout.keyring(kind))) == tarball:
        return heal_keyrings(store=store)
    put_keyring(kind, tarball, signature, store=store)
    return True


def heal_keyrings(*, store: Store) -> bool:
    """Puts the signature beside each keyring that has another's there; whether anything had to be written.

    Needs no key: every keyring was signed before it was published, under the name of its digest.
    """
    healed = [_heal(kind, store) for kind in SIGNED_BY]
    return any(healed)


def _heal(kind: str, store: Store) -> bool:
    key = layout.key(layout.keyring(kind))
    tarball = read_object(store, key)
    signature = tarball and read_object(store, layout.key(keyring_signature_path(kind, tarball)))
    if not signature or read_object(store, f"{key}.asc") == signature:
        return False
    store.put_bytes(f"{key}.asc", signature, media_type=OPENPGP_SIGNATURE)
    return True


def put_keyring(kind: str, tarball: bytes, signature: bytes, *, store: Store) -> None:
    """First the signature under its own name, then the keyring, which readers of ours can use from then on; last the
    signature under the name that old clients know."""
    named = layout.key(keyring_signature_path(kind, tarball))
    if read_object(store, layout.key(layout.keyring(kind))) == tarball:
        store.put_bytes(named, signature, media_type=OPENPGP_SIGNATURE)
    else:
        with suppress(ConflictError):
            store.put_bytes(named, signature, media_type=OPENPGP_SIGNATURE, if_absent=True)
        store.put_bytes(layout.key(layout.keyring(kind)), tarball, media_type=TAR_XZ)
    _heal(kind, store)


def make_wanted_keyring(kind: str, *, store: Store, signer: Signer, now: datetime) -> bytes:
    """The keyring of the keys that count now. A blacklist keeps what is on it."""
    expiry = int((now + IMAGE_SIGNING_LIFETIME).timestamp()) if kind == "image-signing" else None
    return make_keyring(kind, _keys(kind, store, signer), expiry=expiry)


def is_right(kind: str, *, store: Store, signer: Signer, now: datetime) -> bool:
    """Whether the published keyring is of the keys that count, signed by the one that signs now, with a year to go."""
    key = layout.key(layout.keyring(kind))
    tarball, signature = read_object(store, key), read_object(store, f"{key}.asc")
    if tarball is None or signature is None:
        return False
    role = SIGNED_BY[kind]
    try:
        made_by = verify_detached(tarball, signature, [signer.public_key(role)])
        keyring = read_keyring(tarball, kind, now=(now + _RENEWED_BEFORE).timestamp(), where=key)
    except (VerificationError, RepositoryError):
        return False
    return made_by == signer.fingerprint(role) and _trusts_the_right(keyring, signer)


def _still_serves(kind: str, store: Store, signer: Signer, now: datetime) -> bool:
    """Whether clients accept it, and what our keys sign with it."""
    key = layout.key(layout.keyring(kind))
    tarball, signature = read_object(store, key), read_object(store, f"{key}.asc")
    if tarball is None or signature is None:
        return False
    try:
        verify_detached(tarball, signature, [signer.public_key(SIGNED_BY[kind])])
        keyring = read_keyring(tarball, kind, now=now.timestamp(), where=key)
    except (VerificationError, RepositoryError):
        return False
    return kind == "blacklist" or signer.fingerprint(Role(kind)) in primary_fingerprints(keyring.keys)


def blacklisted_keys(store: Store) -> bytes:
    """The public keys on the published blacklist; nothing when there is none. Raises VerificationError for one that
    cannot be read: it must not be replaced by an empty one."""
    key = layout.key(layout.keyring("blacklist"))
    tarball = read_object(store, key)
    if tarball is None:
        return b""
    try:
        return read_keyring(tarball, "blacklist", now=datetime.now(UTC).timestamp(), where=key).keys
    except RepositoryError as error:
        raise VerificationError(
            error.problem,
            where=key,
            resolution="restore the blacklist from a backup: it names the keys that are revoked",
        ) from error


def published_keys(kind: str, *, store: Store, signer: Signer) -> bytes:
    """The keys that clients know now; nothing where no keyring is there that its master signed."""
    key = layout.key(layout.keyring(kind))
    tarball, signature = read_object(store, key), read_object(store, f"{key}.asc")
    if tarball is None or signature is None:
        return b""
    try:
        verify_detached(tarball, signature, [signer.public_key(SIGNED_BY[kind])])
        return read_keyring(tarball, kind, now=0, where=key).keys
    except (VerificationError, RepositoryError):
        return b""


def read_object(store: Store, key: str) -> bytes | None:
    try:
        with store.open(key, stop=KEYRING_LIMIT_BYTES + 1) as file:
            return file.read()
    except NotFoundError:
        return None


def _trusts_the_right(keyring: Keyring, signer: Signer) -> bool:
    if keyring.kind == "blacklist":
        return True
    return primary_fingerprints(keyring.keys) == primary_fingerprints(signer.public_key(Role(keyring.kind)))


def _keys(kind: str, store: Store, signer: Signer) -> bytes:
    return blacklisted_keys(store) if kind == "blacklist" else signer.public_key(Role(kind))
