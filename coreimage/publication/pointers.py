"""Small JSON documents that change: moved by compare-and-swap, so that no move is ever lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from coreimage.errors import ConflictError, NotFoundError, VerificationError
from coreimage.model import JSON, Value
from coreimage.publication.documents import encode
from coreimage.storage import Store

Document = TypeVar("Document", bound=Value)

_ATTEMPTS = 50


def read_document(store: Store, key: str, kind: type[Document]) -> Document | None:
    """None when there is none. Raises VerificationError when it is something else."""
    content = read_bytes(store, key)
    return None if content is None else _decode(content, key, kind)


def read_bytes(store: Store, key: str) -> bytes | None:
    try:
        with store.open(key) as file:
            return file.read()
    except NotFoundError:
        return None


def swap(store: Store, key: str, change: Callable[[bytes | None], bytes], *, media_type: str) -> None:
    """Replaces the object by what `change` makes of it; writes nothing when that is the same.

    `change` may be called again, with newer bytes, when somebody else wrote in between. Raises ConflictError when
    that happens all the time.
    """
    for _ in range(_ATTEMPTS):
        # The etag is taken before the bytes: a write in between then makes the swap fail, never succeed wrongly.
        info = store.head(key)
        found = read_bytes(store, key) if info else None
        wanted = change(found)
        if wanted == found:
            return
        try:
            store.put_bytes(
                key, wanted, media_type=media_type, if_absent=info is None, if_match=info.etag if info else None
            )
        except ConflictError:
            continue
        return
    raise ConflictError(f"{key} changes all the time", where=store.url, resolution="run again")


def swap_document(store: Store, key: str, kind: type[Document], change: Callable[[Document | None], Document]) -> None:
    """`swap` for a document; raises VerificationError when the object is something else."""

    def change_bytes(found: bytes | None) -> bytes:
        return encode(change(None if found is None else _decode(found, key, kind)))

    swap(store, key, change_bytes, media_type=JSON)


def _decode(content: bytes, key: str, kind: type[Document]) -> Document:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise VerificationError(
            f"this is not what coreimage writes there ({error.errors()[0]['msg']})",
            where=key,
            resolution="restore the object from a backup, or delete it and run again",
        ) from error
