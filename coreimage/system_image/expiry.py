"""What of the tree comes to its end in time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from coreimage.client import ClientError, Keyring, NotPresentError, RepositoryError, Session, read_keyring
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import NotFoundError
from coreimage.image_server import GpgvVerify, StoreWeb
from coreimage.storage import Store
from coreimage.system_image import layout

_KEYRINGS = ("archive-master", "image-master", "image-signing", "blacklist")
_CHANNELS_BEFORE = timedelta(days=30)
"""Channels live for 90 days, and are renewed when they are two weeks old: with 30 left, nobody renews them."""
_DEVICE_KEYRING_BEFORE = timedelta(days=10)
"""Those of devices' makers live for a month (system-image §1.2)."""


def endings(*, store: Store, within: timedelta, now: datetime) -> tuple[str, ...]:
    """One sentence for each published keyring that ends within that time, or cannot be read; for the channels document
    30 days before its end, and for keyrings of devices 10 days before, if that is sooner. None for a fresh store."""
    keyrings = (sentence for kind in _KEYRINGS for sentence in _ending_keyring(kind, store, now + within))
    return (*keyrings, *_ending_channels(store, within, now))


def _ending_keyring(kind: str, store: Store, before: datetime) -> tuple[str, ...]:
    key = layout.key(layout.keyring(kind))
    try:
        with store.open(key) as file:
            keyring = read_keyring(file.read(), kind, now=0.0, where=key)
    except NotFoundError:
        return ()
    except RepositoryError as error:
        return (str(error),)
    return _ending(f"the {kind} keyring", keyring.expiry, before)


def _ending_channels(store: Store, within: timedelta, now: datetime) -> Iterator[str]:
    """As a client sees them, who trusts the store's own archive-master."""
    web = StoreWeb(store)
    try:
        top = web.read(layout.keyring("archive-master"), KEYRING_LIMIT_BYTES)
        session = Session(web, GpgvVerify(), top, now.timestamp)
        yield from _ending("the channels document", session.expires(), now + min(within, _CHANNELS_BEFORE))
        for name, channel in session.channels().items():
            for device, entry in channel.devices.items():
                if entry.keyring is not None:
                    keyring = _device_keyring(web, entry.keyring[0])
                    end = now + min(within, _DEVICE_KEYRING_BEFORE)
                    yield from _ending(f"the keyring of {device} in {name}", keyring.expiry, end)
    except NotPresentError:
        return
    except ClientError as error:
        yield str(error)


def _device_keyring(web: StoreWeb, path: str) -> Keyring:
    return read_keyring(web.read(path, KEYRING_LIMIT_BYTES), "device-signing", now=0.0, where=path)


def _ending(what: str, expiry: float | None, before: datetime) -> tuple[str, ...]:
    if expiry is None or expiry > before.timestamp():
        return ()
    return (f"{what} ends on {datetime.fromtimestamp(expiry, UTC):%Y-%m-%d}",)
