"""Read JSON that may be hostile (every wrong shape is a RepositoryError), and write it in the two forms of a tree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from coreimage.client.errors import RepositoryError

JsonObject = dict[str, object]
_PATH_LIMIT_CHARACTERS = 4096
_NAME_LIMIT_BYTES = 255


def json_bytes(document: Mapping[str, object]) -> bytes:
    """Encode a document as the original server does: sorted keys, four blanks, a newline at the end (system-image
    §1.1)."""
    return (json.dumps(document, indent=4, sort_keys=True, ensure_ascii=False) + "\n").encode()


def json_sha256(document: Mapping[str, object]) -> str:
    """Return the SHA-256 of what `json_bytes` writes: stores know claims of versions and records of caches by it."""
    return hashlib.sha256(json_bytes(document)).hexdigest()


def compact_json_bytes(document: Mapping[str, object]) -> bytes:
    """Encode a document that only our own clients read: sorted keys, no blanks, as it may be large."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def json_object(content: bytes, where: str) -> JsonObject:
    """Decode `content`, which must be a JSON object."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RepositoryError(f"the document is not JSON: {error}", where=where) from error
    return as_object(document, "the document", where)


def as_object(value: object, name: str, where: str) -> JsonObject:
    """Return `value`, which must be an object; `name` is what the error calls it."""
    if not isinstance(value, dict):
        raise RepositoryError(f"{name} is not an object", where=where)
    return value


def as_array(value: object, name: str, where: str) -> list[object]:
    """Return `value`, which must be an array; `name` is what the error calls it."""
    if not isinstance(value, list):
        raise RepositoryError(f"{name} is not an array", where=where)
    return value


def text(values: JsonObject, key: str, where: str, *, default: str | None = None) -> str:
    """Return the string at `key`, or `default` where the key is missing."""
    value = values.get(key, default)
    if not isinstance(value, str):
        raise RepositoryError(f"{key!r} is missing or not a string", where=where)
    return value


def optional_text(values: JsonObject, key: str, where: str) -> str | None:
    """Return the string at `key`, or None where the key is missing or null."""
    return None if values.get(key) is None else text(values, key, where)


def integer(values: JsonObject, key: str, where: str, *, low: int = 0, high: int, default: int | None = None) -> int:
    """Return the whole number from `low` to `high` at `key`, or `default` where the key is missing."""
    value = values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RepositoryError(f"{key!r} is not a whole number from {low} to {high}", where=where)
    return value


def digest(values: JsonObject, key: str, where: str) -> str:
    """Return the SHA-256 digest at `key`, 64 lower-case hexadecimal digits."""
    value = text(values, key, where)
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise RepositoryError(f"{key!r} is not a SHA-256 digest", where=where)
    return value


def optional_digest(values: JsonObject, key: str, where: str) -> str | None:
    """Return the SHA-256 digest at `key`, or None where the key is missing."""
    return digest(values, key, where) if key in values else None


def web_path(values: JsonObject, key: str, where: str) -> str:
    """Return the path at `key`: server-absolute, relative, or an http(s) URL (system-image §1.8), naming a file."""
    value = text(values, key, where)
    if not value.isprintable() or len(value) > _PATH_LIMIT_CHARACTERS:
        raise RepositoryError(f"{key!r} is no path on a server", where=where)
    try:
        parts = urlsplit(value)
    except ValueError:
        raise RepositoryError(f"{key!r} is no path on a server", where=where) from None
    if (parts.scheme or parts.netloc) and parts.scheme not in {"http", "https"}:
        raise RepositoryError(f"{key!r} is no path on a server", where=where)
    words = unquote(parts.path).split("/")
    if any(word in {".", ".."} for word in words) or "\\" in value:
        raise RepositoryError(f"{key!r} leaves its folder", where=where)
    name = words[-1]
    if not name or not name.isprintable() or len(name.encode(errors="replace")) > _NAME_LIMIT_BYTES:
        raise RepositoryError(f"{key!r} names no file", where=where)
    return value


def base_name(path: str) -> str:
    """Return the file name at the end of a path that `web_path` accepted."""
    return unquote(urlsplit(path).path).rpartition("/")[2]
