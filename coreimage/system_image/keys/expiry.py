"""What of the tree comes to its end in time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from coreimage.client import ClientError, NotPresentError, RepositoryError, Session, read_keyring
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import NotFoundError
from coreimage.storage import Store
from coreimage.system_image.documents import layout
from coreimage.system_image.web import GpgvVerify, StoreWeb

_KEYRINGS = ("archive-master", "image-master", "image-signing", "blacklist")
_CHANNELS_BEFORE = timedelta(days=30)
"""Channels live for 90 days, and are renewed when they are two weeks old: with 30 left, nobody renews them."""
_DEVICE_KEYRING_BEFORE = timedelta(days=10)
"""Those of devices' makers live for a month (system-image §1.2)."""


def endings(*, store: Store, within: timedelta, now: datetime) -> tuple[str, ...]:
    """Say what ends soon, one sentence each.

    Args:
        within: Published keyrings that end within this time are named. The channels document is named 30 days before
            its end, and keyrings of devices 10 days before, if that is sooner.

    Returns:
        The sentences, also one for each keyring that cannot be read; none for a fresh store.
    """
    return (*_ending_keyrings(store, now + within), *_ending_channels(store, within, now))


def _ending_keyrings(store: Store, before: datetime) -> Iterator[str]:
    for kind in _KEYRINGS:
        key = layout.key(layout.keyring(kind))
        try:
            with store.open(key) as file:
                keyring = read_keyring(file.read(), kind, now=0.0, where=key)
        except NotFoundError:
            continue
        except RepositoryError as error:
            yield str(error)
            continue
        yield from _ending(f"the {kind} keyring", keyring.expiry, before)


def _ending_channels(store: Store, within: timedelta, now: datetime) -> Iterator[str]:
    """Look at the channels as a client does who trusts the store's own archive-master."""
    web = StoreWeb(store)
    try:
        top = web.read(layout.keyring("archive-master"), KEYRING_LIMIT_BYTES)
        session = Session(web, GpgvVerify(), top, now.timestamp)
        yield from _ending("the channels document", session.expires(), now + min(within, _CHANNELS_BEFORE))
        for name, channel in session.channels().items():
            for device, entry in channel.devices.items():
                if entry.keyring is not None:
                    path = entry.keyring.path
                    content = web.read(path, KEYRING_LIMIT_BYTES)
                    keyring = read_keyring(content, "device-signing", now=0.0, where=path)
                    end = now + min(within, _DEVICE_KEYRING_BEFORE)
                    yield from _ending(f"the keyring of {device} in {name}", keyring.expiry, end)
    except NotPresentError:
        return
    except ClientError as error:
        yield str(error)


def _ending(what: str, expiry: float | None, before: datetime) -> Iterator[str]:
    if expiry is not None and expiry <= before.timestamp():
        yield f"{what} ends on {datetime.fromtimestamp(expiry, UTC):%Y-%m-%d}"
