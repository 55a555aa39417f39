"""The object `format.json` of a store: its layout, so that an older coreimage never writes into a newer one's, and the
servers that were tried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from coreimage.errors import ConflictError, HostError, LostWriteError, UsageError, VerificationError
from coreimage.model import JSON
from coreimage.storage.store import Store
from coreimage.storage.swap import swap

FORMAT = 1
"""The layout of docs/storage-layout.md."""
FORMAT_KEY = "format.json"
_TRUSTED = "conditional_puts"
_MAX_TRUSTED_SERVERS = 16


@dataclass(frozen=True)
class _Mark:
    """The content of `format.json`."""

    format: int
    trusted_servers: tuple[str, ...] = ()
    """The servers that were seen to honour conditional puts, the newest last; `conditional_puts` in the JSON."""
    other_keys: Mapping[str, Any] = field(default_factory=dict)
    """What a newer coreimage wrote beside them; it is kept."""

    def encode(self) -> bytes:
        document = {**self.other_keys, "format": self.format, _TRUSTED: self.trusted_servers}
        return f"{json.dumps(document)}\n".encode()

    @classmethod
    def decode(cls, content: bytes, where: str) -> _Mark:
        try:
            document = dict(json.loads(content))
            servers = tuple(str(server) for server in document.pop(_TRUSTED, ()))
            return cls(int(document.pop("format")), servers, document)
        except (ValueError, TypeError, KeyError):
            raise VerificationError("names no format", where=where, resolution='write {"format": 1} there') from None


def require_format(store: Store) -> None:
    """Mark a fresh store with our format, and check that an old one, and its server, can be used.

    A server is tried once, and again when it calls itself something else or is reached at another address.

    Raises:
        UsageError: A newer coreimage wrote the store.
        HostError: The server ignores the conditions of puts.
        VerificationError: `format.json` is damaged.
    """
    where = f"{store.url}/{FORMAT_KEY}"
    if store.head(FORMAT_KEY) is None:
        with suppress(LostWriteError):
            store.put_bytes(FORMAT_KEY, _Mark(FORMAT).encode(), media_type=JSON, if_absent=True)
    with store.open(FORMAT_KEY) as file:
        content = file.read()
    mark = _Mark.decode(content, where)
    if mark.format > FORMAT:
        raise UsageError(
            f"the store has format {mark.format}, this coreimage knows up to {FORMAT}",
            where=store.url,
            resolution="use the coreimage that wrote it, or a newer one",
        )
    server = store.server
    if server and server not in mark.trusted_servers:
        _require_conditional_puts(store, content)

        def trust_server(present: bytes | None) -> bytes:
            mark = _Mark.decode(present or content, where)
            return replace(mark, trusted_servers=(*mark.trusted_servers, server)[-_MAX_TRUSTED_SERVERS:]).encode()

        # A server that could not be recorded is tried again next time.
        with suppress(ConflictError):
            swap(store, FORMAT_KEY, trust_server, media_type=JSON)


def _require_conditional_puts(store: Store, content: bytes) -> None:
    """Raise HostError unless the server honours conditions: without them, writers would overwrite each other.

    Tried on `format.json` with its own content, so that a server that fails the trial has changed nothing.
    """
    conditions: tuple[dict[str, Any], ...] = ({"if_absent": True}, {"if_match": '"no-such-version"'})
    for condition in conditions:
        try:
            store.put_bytes(FORMAT_KEY, content, media_type=JSON, **condition)
        except LostWriteError:
            continue
        raise HostError(
            f"the server ignores conditional puts ({', '.join(condition)}): two writers would overwrite each other",
            where=store.url,
            resolution="use a server that honours If-None-Match and If-Match, as AWS S3 and SeaweedFS do",
        )
