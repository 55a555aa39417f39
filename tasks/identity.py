"""What a step's result depends on, as one key: its name, its own code and its inputs' content.

The same step with the same inputs has the same key in any process, folder or host; a blob counts by its digest and
media type, wherever it is stored, and a log counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from pydantic import BaseModel

from coreimage.model import LOG, ArtifactRef


def cache_key(task: str, recipe: str, inputs: Mapping[str, Any]) -> str:
    """`<task>-<sha256>`. Raises TypeError for an input whose content has no canonical form."""
    document = {"task": task, "recipe": recipe, "inputs": canonical(inputs)}
    return f"{task}-{hashlib.sha256(_json(document)).hexdigest()}"


def canonical(value: Any) -> Any:
    """JSON values that are equal exactly when the content is. A path is refused: it names a place, not a content."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, ArtifactRef):
        return {"sha256": value.sha256, "media_type": value.media_type}
    if isinstance(value, BaseModel):
        return canonical({name: getattr(value, name) for name in type(value).model_fields})
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items() if not _is_log(item)}
    if isinstance(value, set | frozenset):
        return sorted((canonical(item) for item in value), key=_json)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [canonical(item) for item in value if not _is_log(item)]
    raise TypeError(f"{type(value).__name__} has no canonical form, so it cannot be part of a cache key")


def references(value: Any) -> Iterator[ArtifactRef]:
    """Every artifact that a result names, logs included."""
    if isinstance(value, ArtifactRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from references(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from references(item)


def _is_log(value: Any) -> bool:
    return isinstance(value, ArtifactRef) and value.media_type == LOG


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
