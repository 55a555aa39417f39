"""What a step depended on when it was last looked at, so that a step that runs can say what changed.

One small JSON document per step and subject in the store, `inputs/<task>/<channel-device-…>.json`. It decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from coreimage.errors import CoreimageError
from coreimage.model import JSON, ArtifactRef, ToolsTree, Value
from coreimage.rootfs import read_lock
from coreimage.rootfs.lock_diff import lock_diff
from coreimage.storage import Store
from tasks.identity import cache_key, canonical

_SUBJECT = ("device", "architecture", "firmware")
_NAMES = ("name", "device", "suite", "firmware", "architecture")
_SHOWN = 3
_LISTED = {"packages", "suites", "components"}
_LOCK, _TOOLS_LOCK, _TOOLS_TREE = "lock changed", "tools lock changed", "tools tree changed"
_WORDS = {"system_files": "system files", "hostname": "host name", "published": "the build", "releases": "archive"}


class Inputs(Value):
    """`code` has digests by module, `values` digests or plain values by place; `lock` and `tools` are the locks of
    packages and of tools among them."""

    task: str
    subject: str
    key: str
    code: dict[str, str]
    values: dict[str, str]
    lock: ArtifactRef | None = None
    tools: ArtifactRef | None = None


def inputs_of(task: str, channel: str, code: Mapping[str, str], arguments: Mapping[str, Any]) -> Inputs:
    """Pure. Raises TypeError for an argument whose content has no canonical form."""
    recipe = hashlib.sha256(json.dumps(sorted(code.items())).encode()).hexdigest()
    lock, tools = arguments.get("lock"), arguments.get("tools")
    return Inputs(
        task=task,
        subject="-".join([channel, *_subject(arguments)]),
        key=cache_key(task, recipe, arguments),
        code=dict(code),
        values=dict(_flat("", canonical(arguments))),
        lock=lock if isinstance(lock, ArtifactRef) else None,
        tools=tools.lock if isinstance(tools, ToolsTree) else None,
    )


def why(now: Inputs, gone: str = "", *, store: Store) -> tuple[str, ...]:
    """Why the step must run: what changed since it was last looked at. `gone` is an artifact that the store lost."""
    if gone:
        return (f"{gone} is gone from the store",)
    before = recall(now, store)
    if before is None:
        return ("no earlier run is recorded",)
    found = (*_lock_changes(before, now, store), *_tools_changes(before, now, store), *changes(before, now))
    return tuple(dict.fromkeys(found)) or ("its last run did not finish, or its result was removed",)


def changes(before: Inputs, now: Inputs) -> tuple[str, ...]:
    """Pure: what differs, in words; the lock left out."""
    code = [name or "its own module" for name in _differing(before.code, now.code)]
    more = f" and {len(code) - _SHOWN} more" if len(code) > _SHOWN else ""
    said = [
        _said(path, before.values.get(path), now.values.get(path)) for path in _differing(before.values, now.values)
    ]
    said = [words for words in said if words != _LOCK or not (before.lock and now.lock)]
    said = [words for words in said if words != _TOOLS_LOCK and (words != _TOOLS_TREE or before.tools == now.tools)]
    return (*dict.fromkeys(said), *([f"code changed: {', '.join(code[:_SHOWN])}{more}"] if code else []))


def recall(now: Inputs, store: Store) -> Inputs | None:
    """What the same step depended on when it was last looked at for the same subject."""
    with suppress(CoreimageError, ValidationError), store.open(_place(now)) as file:
        return Inputs.model_validate_json(file.read())
    return None


def remember(now: Inputs, store: Store) -> None:
    if recall(now, store) != now:
        store.put_bytes(_place(now), f"{now.model_dump_json(indent=1)}\n".encode(), media_type=JSON)


def _lock_changes(before: Inputs, now: Inputs, store: Store) -> tuple[str, ...]:
    if not before.lock or not now.lock or before.lock.sha256 == now.lock.sha256:
        return ()
    with suppress(CoreimageError):
        found = lock_diff(read_lock(store, before.lock), read_lock(store, now.lock))
        # The tools are an input of their own.
        return found.model_copy(update={"configuration": (), "tools": () if now.tools else found.tools}).summary()
    return (_LOCK,)


def _tools_changes(before: Inputs, now: Inputs, store: Store) -> tuple[str, ...]:
    """Which package of the tools tree has another version."""
    if not before.tools or not now.tools or before.tools.sha256 == now.tools.sha256:
        return ()
    with suppress(CoreimageError):
        found = lock_diff(read_lock(store, before.tools), read_lock(store, now.tools)).packages
        named = [f"tool {change}" for change in found]
        more = (f"{len(named) - _SHOWN} more tools",) if len(named) > _SHOWN else ()
        return (*named[:_SHOWN], *more)
    return (_TOOLS_LOCK,)


def _said(path: str, old: str | None, new: str | None) -> str:
    """`spec.hooks[10-users.sh].script` is `hook 10-users.sh changed`."""
    found = re.match(r"(?:spec\.)?(?P<part>\w+)(?:\[(?P<item>[^\]]*)\])?(?:\.(?P<rest>.*))?$", path)
    part, item, rest = (found["part"], found["item"], found["rest"]) if found else (path, None, None)
    if part == "tools":
        return f"tools {rest} changed"
    if part == "hooks" and item:
        return f"hook {item} {'is new' if old is None else 'is gone' if new is None else 'changed'}"
    words = _WORDS.get(part, part.replace("_", " "))
    return f"{words} {item} changed" if item and part == "releases" else f"{words} changed"


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _subject(value: Any) -> Iterator[str]:
    """Device, architecture and firmware, wherever an argument names them; each once."""
    found: dict[str, str] = {}
    for argument in [value, *value.values()]:
        for name in _SUBJECT:
            word = argument.get(name) if isinstance(argument, Mapping) else getattr(argument, name, None)
            if isinstance(word, str):
                found[name] = word
    return iter(found[name] for name in _SUBJECT if name in found)


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Places and what is there; artifacts as their digest, lists of words as one value."""
    if isinstance(value, dict) and value.keys() == {"sha256", "media_type"}:
        yield path, value["sha256"]
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{path}.{name}" if path else name, item)
    elif isinstance(value, list) and path.rpartition(".")[2] not in _LISTED:
        for number, item in enumerate(value):
            yield from _flat(f"{path}[{_name(item, number)}]", item)
    else:
        yield path, json.dumps(value)


def _name(item: Any, number: int) -> str:
    words = [str(item[name]) for name in _NAMES if name in item] if isinstance(item, dict) else []
    return words[0] if words else str(number)


def _place(inputs: Inputs) -> str:
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", inputs.subject).strip("-.") or "any"
    return f"inputs/{inputs.task}/{slug}.json"
