"""Which layout a store has, so that an older coreimage never writes into a newer one's; which servers were tried."""

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
_TRUSTED = "conditional_puts"
"""The key of the servers that were seen to honour conditional puts, the newest last."""
_MOST_TRUSTED = 16


def require_format(store: Store) -> None:
    """Marks a fresh store with our format. Raises UsageError for the store of a newer coreimage, HostError for a server
    that takes no notice of conditions.

    A server is tried once, and again when it calls itself something else or is reached at another address.
    """
    if store.head(FORMAT_KEY) is None:
        with suppress(ConflictError):
            store.put_bytes(FORMAT_KEY, _encode({"format": FORMAT}), media_type=JSON, if_absent=True)
    with store.open(FORMAT_KEY) as file:
        content = file.read()
    mark = _decode(content, f"{store.url}/{FORMAT_KEY}")
    if mark["format"] > FORMAT:
        raise UsageError(
            f"the store has format {mark['format']}, this coreimage knows up to {FORMAT}",
            where=store.url,
            resolution="use the coreimage that wrote it, or a newer one",
        )
    server = store.server
    if server and server not in mark[_TRUSTED]:
        _require_conditions(store, content)
        _remember(store, content, mark, server)


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


def _remember(store: Store, content: bytes, mark: dict[str, Any], server: str) -> None:
    """Whoever is overtaken by another writer remembers nothing: the server is tried again next time."""
    found = store.head(FORMAT_KEY)
    with store.open(FORMAT_KEY) as file:
        unchanged = file.read() == content
    if found and unchanged:
        trusted = [*mark[_TRUSTED], server][-_MOST_TRUSTED:]
        with suppress(ConflictError):
            store.put_bytes(FORMAT_KEY, _encode({**mark, _TRUSTED: trusted}), media_type=JSON, if_match=found.etag)


def _encode(mark: dict[str, Any]) -> bytes:
    return f"{json.dumps(mark)}\n".encode()


def _decode(content: bytes, where: str) -> dict[str, Any]:
    """With `format`, a number, and the list of trusted servers; whatever else is there stays."""
    try:
        mark = json.loads(content)
        return {**mark, "format": int(mark["format"]), _TRUSTED: [str(server) for server in mark.get(_TRUSTED, [])]}
    except (ValueError, TypeError, KeyError):
        raise VerificationError("names no format", where=where, resolution='write {"format": 1} there') from None
