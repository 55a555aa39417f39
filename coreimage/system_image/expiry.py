"""What of the tree comes to its end in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from coreimage.client import RepositoryError, read_keyring
from coreimage.errors import NotFoundError
from coreimage.storage import Store
from coreimage.system_image import layout

_KEYRINGS = ("archive-master", "image-master", "image-signing", "blacklist")


def ending_keyrings(*, store: Store, within: timedelta, now: datetime) -> tuple[str, ...]:
    """One sentence for each published keyring that ends within that time, or cannot be read. None for a fresh store."""
    return tuple(sentence for kind in _KEYRINGS for sentence in _ending(kind, store, now + within))


def _ending(kind: str, store: Store, before: datetime) -> tuple[str, ...]:
    key = layout.key(layout.keyring(kind))
    try:
        with store.open(key) as file:
            keyring = read_keyring(file.read(), kind, now=0.0, where=key)
    except NotFoundError:
        return ()
    except RepositoryError as error:
        return (str(error),)
    if keyring.expiry is None or keyring.expiry > before.timestamp():
        return ()
    return (f"the {kind} keyring ends on {datetime.fromtimestamp(keyring.expiry, UTC):%Y-%m-%d}",)
