"""Which layout a store has, so that an older coreimage never writes into a newer one's."""

from __future__ import annotations

import json
from contextlib import suppress

from coreimage.errors import ConflictError, UsageError, VerificationError
from coreimage.model import JSON
from coreimage.storage.store import Store

FORMAT = 1
"""The layout of docs/storage-layout.md."""
FORMAT_KEY = "format.json"


def require_format(store: Store) -> None:
    """Marks a fresh store with our format. Raises UsageError for the store of a newer coreimage."""
    if store.head(FORMAT_KEY) is None:
        with suppress(ConflictError):
            store.put_bytes(FORMAT_KEY, f'{{"format": {FORMAT}}}\n'.encode(), media_type=JSON, if_absent=True)
    with store.open(FORMAT_KEY) as file:
        found = _format_of(file.read(), f"{store.url}/{FORMAT_KEY}")
    if found > FORMAT:
        raise UsageError(
            f"the store has format {found}, this coreimage knows up to {FORMAT}",
            where=store.url,
            resolution="use the coreimage that wrote it, or a newer one",
        )


def _format_of(content: bytes, where: str) -> int:
    try:
        return int(json.loads(content)["format"])
    except (ValueError, TypeError, KeyError):
        raise VerificationError("names no format", where=where, resolution='write {"format": 1} there') from None
