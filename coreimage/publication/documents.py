"""The small JSON documents of a tree of builds beside build.json: reservations, pointers and pins.

Documents that change are replaced by compare-and-swap, so that no writer's change is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from coreimage.errors import VerificationError
from coreimage.model import JSON, Architecture, BootReport, PackageLock, Sha256, Value
from coreimage.storage import Store, read_bytes, swap

Document = TypeVar("Document", bound=Value)


class Reservation(Value):
    """The claim of one content on a build id, and the builds that it carries files over from, by architecture."""

    format: Literal[1] = 1
    build_id: str
    content_sha256: Sha256
    carried: dict[Architecture, str] = Field(default_factory=dict)


class ContentEntry(Value):
    """The build id of one content."""

    format: Literal[1] = 1
    build_id: str


class Pending(Value):
    """The newest published build, tested or not, and the newest that was built for each architecture.

    `moved` is RFC 3339, UTC.
    """

    format: Literal[1] = 1
    build_id: str
    moved: str
    architectures: dict[Architecture, str] = Field(default_factory=dict)


class MarkedGood(Value):
    """The mark that a build is good for an architecture, with its boot reports. `marked` is RFC 3339, UTC."""

    build_id: str
    marked: str
    evidence: tuple[BootReport, ...]


class Current(Value):
    """The newest good build of each architecture."""

    format: Literal[1] = 1
    architectures: dict[Architecture, MarkedGood]


class Pin(Value):
    """The pin that keeps a build from retention, with the reason. `pinned` is RFC 3339, UTC."""

    format: Literal[1] = 1
    build_id: str
    pinned: str
    note: str = ""


def encode(document: Value) -> bytes:
    """Return the bytes of a document as it is stored: JSON, indented for people."""
    return f"{document.model_dump_json(indent=2)}\n".encode()


def decode(content: bytes, key: str, kind: type[Document]) -> Document:
    """Parse the document at `key`.

    Raises:
        VerificationError: `content` is no document of that kind.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise VerificationError(
            f"this is not what coreimage writes there ({error.errors()[0]['msg']})",
            where=key,
            resolution="restore the object from a backup, or delete it and run again",
        ) from error


def decode_lock(content: bytes, where: str) -> PackageLock:
    """Parse a package lock; errors name its place `where`.

    Raises:
        VerificationError: `content` is no package lock.
    """
    try:
        return PackageLock.model_validate_json(content)
    except ValidationError as error:
        raise VerificationError(
            f"this is not a package lock: {error.error_count()} fields are wrong",
            where=where,
            resolution="plan the build again with --refresh",
        ) from error


def read_document(store: Store, key: str, kind: type[Document]) -> Document | None:
    """Return the document at `key`, or None when there is none. Raises VerificationError as `decode` does."""
    content = read_bytes(store, key)
    return None if content is None else decode(content, key, kind)


def swap_document(store: Store, key: str, kind: type[Document], decide: Callable[[Document | None], Document]) -> None:
    """Replace the document at `key` by what `decide` makes of it, as `swap` does for bytes.

    Raises:
        VerificationError: The present object is no document of that kind.
        ConflictError: Other writers were faster in every attempt.
    """

    def decide_bytes(present: bytes | None) -> bytes:
        return encode(decide(None if present is None else decode(present, key, kind)))

    swap(store, key, decide_bytes, media_type=JSON)
