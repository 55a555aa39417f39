"""The signed channels document: what keeps a client from believing an old one, a frozen one, or another's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from coreimage.client.documents import Channel, parse_channels
from coreimage.client.errors import RepositoryError
from coreimage.client.json_reader import as_object, integer, json_object, text

_NUMBER_LIMIT = 1 << 53
_FIRST_YEAR_9999 = 253_370_764_800


@dataclass(frozen=True)
class SignedChannels:
    """`number` grows with every document of a server; `expires` is UNIX seconds, None for a candidate's, which is of
    `kind` `candidate`. Documents of servers that know neither have number 0 and the kind `channels`."""

    channels: dict[str, Channel]
    number: int
    expires: int | None
    kind: str
    sha256: str


@dataclass(frozen=True)
class Seen:
    """What a client remembers of a server between its visits: the newest document that it believed."""

    number: int = 0
    sha256: str = ""


def parse_signed_channels(content: bytes, where: str) -> SignedChannels:
    sha256 = hashlib.sha256(content).hexdigest()
    document = json_object(content, where)
    if not isinstance(document.get("number"), int):
        return SignedChannels(parse_channels(content, where), 0, None, "channels", sha256)
    channels = parse_channels(as_object(document.get("channels"), "'channels'", where), where)
    kind = text(document, "kind", where)
    number = integer(document, "number", where, low=1, high=_NUMBER_LIMIT)
    expires = None if kind == "candidate" else integer(document, "expires", where, low=1, high=_FIRST_YEAR_9999)
    return SignedChannels(channels, number, expires, kind, sha256)


def judge(document: SignedChannels, seen: Seen, *, now: float, legacy: bool, where: str) -> Seen:
    """What to remember from now on. Raises RepositoryError for a document that must not be believed.

    `legacy`: a document without a number is believed as long as the server never had one.
    """
    if document.kind != "channels":
        raise RepositoryError(f"it is a document of the kind {document.kind!r}, not the server's channels", where=where)
    if document.number < seen.number or (document.number == seen.number and seen.sha256 not in {"", document.sha256}):
        raise RepositoryError(
            f"it is document {document.number}, and document {seen.number} was seen before: old channels are served",
            where=where,
        )
    if document.number == 0 and not legacy:
        raise RepositoryError(
            "it has neither number nor expiry, which only a legacy server may do without", where=where
        )
    if document.expires is not None and document.expires <= now:
        end = datetime.fromtimestamp(document.expires, UTC)
        raise RepositoryError(
            f"it has expired on {end:%Y-%m-%d}: the channels are frozen, or not cared for", where=where
        )
    return Seen(document.number, document.sha256) if document.number else seen
