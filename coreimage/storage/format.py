"""Which layout a store has, so that an older coreimage never writes into a newer one's."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from coreimage.errors import ConflictError, HostError, UsageError, VerificationError
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
        content = file.read()
    found = _format_of(content, f"{store.url}/{FORMAT_KEY}")
    if found > FORMAT:
        raise UsageError(
            f"the store has format {found}, this coreimage knows up to {FORMAT}",
            where=store.url,
            resolution="use the coreimage that wrote it, or a newer one",
        )
    _require_conditions(store, content)


def _require_conditions(store: Store, content: bytes) -> None:
    """Everything rests on conditional puts: a server that takes no notice of them would lose what others write.

    Tried on the format itself, with its own content, so that a server that fails the trial has nothing changed.
    """
    conditions: tuple[dict[str, Any], ...] = ({"if_absent": True}, {"if_match": '"no-such-version"'})
    for condition in conditions:
        try:
            store.put_bytes(FORMAT_KEY, content, media_type=JSON, **condition)
        except ConflictError:
            continue
        raise HostError(
            f"the server ignores conditional puts ({', '.join(condition)}): two writers would overwrite each other",
            where=store.url,
            resolution="use a server that honours If-None-Match and If-Match, as AWS S3 and SeaweedFS do",
        )


def _format_of(content: bytes, where: str) -> int:
    try:
        return int(json.loads(content)["format"])
    except (ValueError, TypeError, KeyError):
        raise VerificationError("names no format", where=where, resolution='write {"format": 1} there') from None
