"""Reads JSON that may be hostile: every wrong shape is a RepositoryError, nothing else."""

from __future__ import annotations

import json
import re
from urllib.parse import SplitResult, unquote, urlsplit

from coreimage.client.errors import RepositoryError

_PATH_LIMIT = 4096


def json_object(content: bytes, where: str) -> dict[str, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RepositoryError(f"not JSON: {error}", where=where) from error
    return as_object(found, "the document", where)


def as_object(value: object, name: str, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RepositoryError(f"{name} is not an object", where=where)
    return value


def as_array(value: object, name: str, where: str) -> list[object]:
    if not isinstance(value, list):
        raise RepositoryError(f"{name} is not an array", where=where)
    return value


def text(values: dict[str, object], key: str, where: str, *, default: str | None = None) -> str:
    found = values.get(key, default)
    if not isinstance(found, str):
        raise RepositoryError(f"{key!r} is missing or not a string", where=where)
    return found


def integer(
    values: dict[str, object], key: str, where: str, *, low: int = 0, high: int, default: int | None = None
) -> int:
    found = values.get(key, default)
    if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
        raise RepositoryError(f"{key!r} is not a whole number from {low} to {high}", where=where)
    return found


def digest(values: dict[str, object], key: str, where: str) -> str:
    found = text(values, key, where)
    if not re.fullmatch(r"[0-9a-f]{64}", found):
        raise RepositoryError(f"{key!r} is not a SHA-256 digest", where=where)
    return found


def web_path(values: dict[str, object], key: str, where: str) -> str:
    """A server-absolute path, a relative one, or an http(s) URL (system-image §1.8), which names a file."""
    found = text(values, key, where)
    parts = _split(found)
    if parts is None or ((parts.scheme or parts.netloc) and parts.scheme not in {"http", "https"}):
        raise RepositoryError(f"{key!r} is no path on a server", where=where)
    words = unquote(parts.path).split("/")
    if any(word in {".", ".."} for word in words) or "\\" in found or not _plain(words[-1]):
        raise RepositoryError(f"{key!r} leaves its folder or names no file", where=where)
    return found


def _split(path: str) -> SplitResult | None:
    if not path.isprintable() or len(path) > _PATH_LIMIT:
        return None
    try:
        return urlsplit(path)
    except ValueError:
        return None


def base_name(path: str) -> str:
    return unquote(urlsplit(path).path).rpartition("/")[2]


def _plain(name: str) -> bool:
    return bool(name) and name.isprintable() and len(name.encode(errors="replace")) <= 255  # noqa: PLR2004
