from __future__ import annotations

import json
from typing import Any


class RefusedError(AssertionError):
    pass


class BadSignatureError(RefusedError):
    """The one refusal that the client tries to mend, by fetching the signer's keyring again (§1.5)."""


class MissingError(RefusedError):
    pass


def require(condition: object, problem: str) -> None:
    if not condition:
        raise RefusedError(problem)


def json_object(content: bytes | str, name: str) -> dict[str, Any]:
    document = json.loads(content)
    require(isinstance(document, dict), f"{name} is an object")
    return document  # type: ignore[no-any-return]
