"""The keyrings below `gpg/` (system-image §1.2): who is trusted, signed by who trusts them.

Masters need not be on the machine that publishes: `unsigned_keyrings` gives what they must sign, and
`publish_signed_keyring` takes it back.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from coreimage.client import Keyring, RepositoryError, primary_fingerprints, read_keyring
from coreimage.client.fetch import keyring_signature_path
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import LostWriteError, VerificationError
from coreimage.model import OPENPGP_SIGNATURE, TAR_XZ
from coreimage.signing import Role, Signer, make_keyring
from coreimage.storage import Store, read_bytes, swap
from coreimage.system_image.documents import layout
from coreimage.system_image.keys.owner import require_own_store
from coreimage.system_image.server import ChannelTree

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
"""Who signs a keyring, by its kind; in the order in which clients need them."""


def publish_keyrings(tree: ChannelTree, *, replaced: str = "") -> list[str]:
    """Publish the keyrings that are missing, of other keys, or near their end.

    A keyring that is right keeps its bytes. The blacklist starts empty and is never emptied here. Where the master
    that must sign is elsewhere, a keyring that clients still accept stays.

    Args:
        tree: The channels.
        replaced: The fingerprint of the store's archive-master that ours replaces; empty: none may be replaced.

    Returns:
        The kinds of the keyrings that were published.

    Raises:
        HostError: The master that must sign is elsewhere, and clients have no keyring that they accept.
        UsageError: The store has another archive-master.
    """
    require_own_store(tree.store, tree.signer, replaced=replaced)
    heal_keyrings(tree.store)
    published = []
    for kind, role in SIGNED_BY.items():
        if is_right(tree, kind):
            continue
        if not tree.signer.has(role) and _still_serves(tree, kind):
            log.warning("keyring waits for its master: sign it with `coreimage keys export`", keyring=kind)
            continue
        tarball = make_wanted_keyring(tree, kind)
        put_keyring(tree, kind, tarball, tree.signer.detached(role, tarball), replaced=replaced)
        log.info("keyring published", keyring=kind)
        published.append(kind)
    return published


def unsigned_keyrings(tree: ChannelTree) -> dict[str, bytes]:
    """Return the keyrings, by kind, that are to be published, and that a master elsewhere must sign first."""
    return {
        kind: make_wanted_keyring(tree, kind)
        for kind, role in SIGNED_BY.items()
        if not tree.signer.has(role) and not is_right(tree, kind)
    }


def publish_signed_keyring(tree: ChannelTree, kind: str, tarball: bytes, signature: bytes) -> bool:
    """Publish a keyring that was signed elsewhere.

    Returns:
        Whether anything was written.

    Raises:
        VerificationError: Its master did not sign it, it is of another kind, or it holds other keys than those that
            count here.
        UsageError: The store has another archive-master.
    """
    require_own_store(tree.store, tree.signer)
    tree.signer.verify(SIGNED_BY[kind], tarball, signature, where=kind)
    try:
        keyring = read_keyring(tarball, kind, now=tree.now().timestamp(), where=kind)
    except RepositoryError as error:
        raise VerificationError(error.problem, where=kind, resolution="export it again") from error
    if not _holds_our_keys(keyring, tree.signer):
        raise VerificationError(
            "the keyring does not hold the keys that count now",
            where=kind,
            resolution="export it again: a key was replaced",
        )
    if read_object(tree.store, layout.key(layout.keyring(kind))) == tarball:
        return heal_keyrings(tree.store)
    put_keyring(tree, kind, tarball, signature)
    return True


def heal_keyrings(store: Store) -> bool:
    """Put its own signature beside each keyring that has another keyring's there.

    That needs no key: every keyring was signed before it was published, under the name of its digest.

    Returns:
        Whether anything had to be written.
    """
    healed = [_heal_keyring(store, kind) for kind in SIGNED_BY]
    return any(healed)


def _heal_keyring(store: Store, kind: str) -> bool:
    key = layout.key(layout.keyring(kind))
    tarball = read_object(store, key)
    signature = tarball and read_object(store, layout.key(keyring_signature_path(kind, tarball)))
    if not signature or read_object(store, f"{key}.asc") == signature:
        return False
    store.put_bytes(f"{key}.asc", signature, media_type=OPENPGP_SIGNATURE)
    return True


def put_keyring(tree: ChannelTree, kind: str, tarball: bytes, signature: bytes, *, replaced: str = "") -> None:
    """Put a keyring: first the signature under its own name, then the keyring, which our readers can use from then on;
    last the signature under the name that old clients know.

    The archive-master keyring is put by compare-and-swap: of two machines with different keys that publish into a fresh
    store at the same time, one is refused.

    Raises:
        UsageError: The store has another archive-master than ours and `replaced`.
    """
    store = tree.store
    key, named = layout.key(layout.keyring(kind)), layout.key(keyring_signature_path(kind, tarball))
    if read_object(store, key) == tarball:
        store.put_bytes(named, signature, media_type=OPENPGP_SIGNATURE)
    else:
        with suppress(LostWriteError):
            store.put_bytes(named, signature, media_type=OPENPGP_SIGNATURE, if_absent=True)
        if kind == "archive-master":

            def replace_own(_present: bytes | None) -> bytes:
                require_own_store(store, tree.signer, replaced=replaced)
                return tarball

            swap(store, key, replace_own, media_type=TAR_XZ)
        else:
            store.put_bytes(key, tarball, media_type=TAR_XZ)
    _heal_keyring(store, kind)


def make_wanted_keyring(tree: ChannelTree, kind: str) -> bytes:
    """Make the keyring of the keys that count now. A blacklist keeps the keys that are on it."""
    keys = blacklisted_keys(tree.store) if kind == "blacklist" else tree.signer.public_key(Role(kind))
    expiry = int((tree.now() + IMAGE_SIGNING_LIFETIME).timestamp()) if kind == "image-signing" else None
    return make_keyring(kind, keys, expiry=expiry)


def is_right(tree: ChannelTree, kind: str) -> bool:
    """Return whether the published keyring holds the keys that count, is signed by the key that signs now, and has a
    year to go."""
    fingerprint, keyring = _published(tree, kind, at=tree.now() + _RENEWED_BEFORE)
    return (
        keyring is not None
        and fingerprint == tree.signer.fingerprint(SIGNED_BY[kind])
        and _holds_our_keys(keyring, tree.signer)
    )


def _still_serves(tree: ChannelTree, kind: str) -> bool:
    """Return whether clients accept the published keyring, and with it what our keys sign."""
    _, keyring = _published(tree, kind, at=tree.now())
    if keyring is None:
        return False
    return kind == "blacklist" or tree.signer.fingerprint(Role(kind)) in primary_fingerprints(keyring.keys)


def published_keys(tree: ChannelTree, kind: str) -> bytes:
    """Return the keys that clients know now; none where there is no keyring that its master signed."""
    _, keyring = _published(tree, kind, at=datetime.fromtimestamp(0, UTC))
    return b"" if keyring is None else keyring.keys


def _published(tree: ChannelTree, kind: str, *, at: datetime) -> tuple[str, Keyring | None]:
    """Return who signed the published keyring, and the keyring as it is valid at that time; None where it is not."""
    key = layout.key(layout.keyring(kind))
    tarball, signature = read_object(tree.store, key), read_object(tree.store, f"{key}.asc")
    if tarball is None or signature is None:
        return "", None
    try:
        fingerprint = tree.signer.verify(SIGNED_BY[kind], tarball, signature, where=key)
        return fingerprint, read_keyring(tarball, kind, now=at.timestamp(), where=key)
    except (VerificationError, RepositoryError):
        return "", None


def blacklisted_keys(store: Store) -> bytes:
    """Return the public keys on the published blacklist; none when there is no blacklist.

    Raises:
        VerificationError: The blacklist cannot be read. It must not be replaced by an empty one.
    """
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


def read_object(store: Store, key: str) -> bytes | None:
    """Return a keyring or a signature of one; None when it is not there."""
    return read_bytes(store, key, stop=KEYRING_LIMIT_BYTES + 1)


def _holds_our_keys(keyring: Keyring, signer: Signer) -> bool:
    if keyring.kind == "blacklist":
        return True
    return primary_fingerprints(keyring.keys) == primary_fingerprints(signer.public_key(Role(keyring.kind)))
