"""Whose store it is: devices trust its archive-master, so that no other key may ever take its place by accident."""

from __future__ import annotations

from contextlib import suppress

from coreimage.client import RepositoryError, primary_fingerprints, read_keyring
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import UsageError
from coreimage.signing import Role, Signer, issuer_of
from coreimage.storage import Store, read_bytes
from coreimage.system_image.documents import layout

_TOP = layout.key(layout.keyring("archive-master"))
_SIGNED_BY_TOP = layout.key(layout.keyring("image-master"))


def archive_masters_of(store: Store) -> frozenset[str]:
    """Return the fingerprints of the archive-master keys that a store publishes; none for a store without keyrings.

    Where its keyring is gone or damaged, the key that signed the image-master keyring is the one that devices trust.
    """
    keyring = read_bytes(store, _TOP, stop=KEYRING_LIMIT_BYTES + 1)
    if keyring is not None:
        with suppress(RepositoryError):
            return primary_fingerprints(read_keyring(keyring, "archive-master", now=0.0, where=_TOP).keys)
    signature = read_bytes(store, f"{_SIGNED_BY_TOP}.asc", stop=KEYRING_LIMIT_BYTES + 1)
    return frozenset({issuer_of(signature or b"")} - {""})


def require_own_store(store: Store, signer: Signer, *, replaced: str = "") -> None:
    """Check that the archive-master of a store, if it has one, is ours.

    Args:
        store: Where keyrings are to be published.
        signer: Whose archive-master is compared.
        replaced: The fingerprint of an archive-master that may be replaced, typed by whoever means it.

    Raises:
        UsageError: The store has another archive-master, or `replaced` is not the one it has.
        HostError: The store has one, and the signer knows none.
    """
    owners = archive_masters_of(store)
    if replaced and replaced not in owners:
        present = f"it is {_list(owners)}" if owners else "it has none yet"
        raise UsageError(
            f"{replaced} is not the archive-master of this store: {present}",
            where=store.url,
            resolution="run `coreimage keys publish` without --replace-archive-master, and read what it says",
        )
    if not owners or replaced or owners & primary_fingerprints(signer.public_key(Role.ARCHIVE_MASTER)):
        return
    raise foreign_store(store, owners, signer.fingerprint(Role.ARCHIVE_MASTER))


def foreign_store(store: Store, owners: frozenset[str], ours: str) -> UsageError:
    """Return the error for a store that has other archive-master keys than this machine.

    Args:
        store: The store.
        owners: The fingerprints of its archive-master keys.
        ours: The fingerprint of the one of this machine; empty when it has none.
    """
    return UsageError(
        f"the store has the archive-master {_list(owners)}, this machine {ours or 'has none'}: devices that trust the "
        "store would refuse whatever is signed here",
        where=store.url,
        resolution="name the folder of the store's keys in COREIMAGE_KEYS, or restore it from its backup. If the key "
        "is lost, docs/keys.md says how an archive-master is replaced",
    )


def _list(fingerprints: frozenset[str]) -> str:
    return " or ".join(sorted(fingerprints))
