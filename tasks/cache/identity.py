"""The cache key of a task's result, made of the task's name, its code and the content of its inputs.

The same task with the same inputs has the same key in any process, folder or host. A blob counts by its digest and
media type, wherever it is stored; logs do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from coreimage.model import ArtifactRef, canonical_sha256


def cache_key(task: str, recipe: str, inputs: Mapping[str, Any]) -> str:
    """Return the key `<task>-<sha256>`.

    Args:
        task: The name of the task.
        recipe: The digest of the task's code.
        inputs: The inputs of the task.

    Raises:
        TypeError: The content of an input has no canonical form.
    """
    return f"{task}-{canonical_sha256({'task': task, 'recipe': recipe, 'inputs': inputs})}"


def references(value: Any) -> Iterator[ArtifactRef]:
    """Yield every artifact that a result names, logs included."""
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
