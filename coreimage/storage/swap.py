"""Small objects that are read whole, and changed while others may change them."""

from __future__ import annotations

from collections.abc import Callable

from coreimage.errors import ConflictError, NotFoundError
from coreimage.storage.store import Store

_ATTEMPTS = 50


def read_bytes(store: Store, key: str) -> bytes | None:
    try:
        with store.open(key) as file:
            return file.read()
    except NotFoundError:
        return None


def swap(store: Store, key: str, change: Callable[[bytes | None], bytes], *, media_type: str) -> bool:
    """Replaces the object by what `change` makes of it; writes nothing when that is the same. Whether it was written.

    `change` may be called again, with newer bytes, when somebody else wrote in between. Raises ConflictError when
    that happens all the time.
    """
    for _ in range(_ATTEMPTS):
        # The etag is taken before the bytes: a write in between then makes the swap fail, never succeed wrongly.
        info = store.head(key)
        found = read_bytes(store, key) if info else None
        wanted = change(found)
        if wanted == found:
            return False
        try:
            store.put_bytes(
                key, wanted, media_type=media_type, if_absent=info is None, if_match=info.etag if info else None
            )
        except ConflictError:
            continue
        return True
    raise ConflictError(f"{key} changes all the time", where=store.url, resolution="run again")
