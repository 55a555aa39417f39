"""Small JSON documents that change: moved by compare-and-swap, so that no move is ever lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from coreimage.errors import VerificationError
from coreimage.model import JSON, Value
from coreimage.publication.documents import encode
from coreimage.storage import Store, read_bytes, swap

Document = TypeVar("Document", bound=Value)


def read_document(store: Store, key: str, kind: type[Document]) -> Document | None:
    """None when there is none. Raises VerificationError when it is something else."""
    content = read_bytes(store, key)
    return None if content is None else _decode(content, key, kind)


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
