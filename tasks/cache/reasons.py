"""The inputs of a task's last lookup, recorded so that a task that runs can say which of them changed.

There is one small JSON document per task and subject in the store, `inputs/<task>/<channel-device-…>.json`. It decides
nothing.
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
from coreimage.model import JSON, ArtifactRef, ToolsTree, Value, canonical
from coreimage.rootfs import read_lock
from coreimage.rootfs.lock_diff import lock_diff
from coreimage.storage import Store
from tasks.cache.identity import cache_key

_SUBJECT = ("device", "architecture", "firmware")
_NAMES = ("name", "device", "suite", "firmware", "architecture")
_SHOWN = 3
_LISTED = {"packages", "suites", "components"}
_LOCK, _TOOLS_LOCK, _TOOLS_TREE = "lock changed", "tools lock changed", "tools tree changed"
_WORDS = {"system_files": "system files", "hostname": "host name", "published": "the build", "releases": "archive"}


class Inputs(Value):
    """Everything that the result of one task depends on.

    Attributes:
        task: The name of the task.
        subject: What the task is about, see `subject_of`.
        key: The cache key of the result.
        code: Digests by module.
        values: Digests or plain values by their place in the arguments.
        lock: The lock of packages among the arguments.
        tools: The lock of the tools among the arguments.
    """

    task: str
    subject: str
    key: str
    code: dict[str, str]
    values: dict[str, str]
    lock: ArtifactRef | None = None
    tools: ArtifactRef | None = None


def inputs_of(task: str, channel: str, code: Mapping[str, str], arguments: Mapping[str, Any]) -> Inputs:
    """Return the inputs of a task.

    Args:
        task: The name of the task.
        channel: The channel that is built.
        code: Digests of the task's code by module.
        arguments: The arguments that are part of the key, by parameter.

    Raises:
        TypeError: The content of an argument has no canonical form.
    """
    recipe = hashlib.sha256(json.dumps(sorted(code.items())).encode()).hexdigest()
    lock, tools = arguments.get("lock"), arguments.get("tools")
    return Inputs(
        task=task,
        subject=subject_of(channel, arguments),
        key=cache_key(task, recipe, arguments),
        code=dict(code),
        values=dict(_leaves("", canonical(arguments))),
        lock=lock if isinstance(lock, ArtifactRef) else None,
        tools=tools.lock if isinstance(tools, ToolsTree) else None,
    )


def subject_of(channel: str, arguments: Mapping[str, Any]) -> str:
    """Return what a task is about: the channel, with the device, architecture and firmware that its arguments name."""
    words: dict[str, str] = {}
    for argument in [arguments, *arguments.values()]:
        for name in _SUBJECT:
            word = argument.get(name) if isinstance(argument, Mapping) else getattr(argument, name, None)
            if isinstance(word, str):
                words[name] = word
    return "-".join([channel, *(words[name] for name in _SUBJECT if name in words)])


def why(now: Inputs, missing: str = "", *, store: Store) -> tuple[str, ...]:
    """Return why a task must run: what changed since its last lookup.

    Args:
        now: The inputs of the task.
        missing: The URI of an artifact of its remembered result that the store has lost, or "".
        store: The store with the inputs of the last lookup.
    """
    if missing:
        return (f"{missing} is gone from the store",)
    before = recall(now, store)
    if before is None:
        return ("no earlier run is recorded",)
    reasons = (*_lock_changes(before, now, store), *_tools_changes(before, now, store), *changes(before, now))
    return tuple(dict.fromkeys(reasons)) or ("its last run did not finish, or its result was removed",)


def changes(before: Inputs, now: Inputs) -> tuple[str, ...]:
    """Describe the differences between inputs in words, without those of locks where both locks are known."""
    words = [
        _change(place, before.values.get(place), now.values.get(place))
        for place in _differing(before.values, now.values)
    ]
    words = [each for each in words if each != _LOCK or not (before.lock and now.lock)]
    words = [each for each in words if each != _TOOLS_LOCK and (each != _TOOLS_TREE or before.tools == now.tools)]
    code = [name or "its own module" for name in _differing(before.code, now.code)]
    more = f" and {len(code) - _SHOWN} more" if len(code) > _SHOWN else ""
    return (*dict.fromkeys(words), *([f"code changed: {', '.join(code[:_SHOWN])}{more}"] if code else []))


def recall(now: Inputs, store: Store) -> Inputs | None:
    """Return the inputs of the last lookup of the same task and subject, or None."""
    with suppress(CoreimageError, ValidationError), store.open(_key(now)) as file:
        return Inputs.model_validate_json(file.read())
    return None


def remember(now: Inputs, store: Store) -> None:
    """Record the inputs of a task for `recall`."""
    if recall(now, store) != now:
        store.put_bytes(_key(now), f"{now.model_dump_json(indent=1)}\n".encode(), media_type=JSON)


def _lock_changes(before: Inputs, now: Inputs, store: Store) -> tuple[str, ...]:
    if not before.lock or not now.lock or before.lock.sha256 == now.lock.sha256:
        return ()
    with suppress(CoreimageError):
        difference = lock_diff(read_lock(store, before.lock), read_lock(store, now.lock))
        # The tools are an input of their own.
        tools = () if now.tools else difference.tools
        return difference.model_copy(update={"configuration": (), "tools": tools}).summary()
    return (_LOCK,)


def _tools_changes(before: Inputs, now: Inputs, store: Store) -> tuple[str, ...]:
    """Describe which packages of the tools tree have changed."""
    if not before.tools or not now.tools or before.tools.sha256 == now.tools.sha256:
        return ()
    with suppress(CoreimageError):
        packages = lock_diff(read_lock(store, before.tools), read_lock(store, now.tools)).packages
        words = [f"tool {change}" for change in packages]
        more = (f"{len(words) - _SHOWN} more tools",) if len(words) > _SHOWN else ()
        return (*words[:_SHOWN], *more)
    return (_TOOLS_LOCK,)


def _change(place: str, old: str | None, new: str | None) -> str:
    """Describe the change of one value in words: `spec.hooks[10-users.sh].script` is `hook 10-users.sh changed`."""
    match = re.match(r"(?:spec\.)?(?P<part>\w+)(?:\[(?P<item>[^\]]*)\])?(?:\.(?P<rest>.*))?$", place)
    part, item, rest = (match["part"], match["item"], match["rest"]) if match else (place, None, None)
    if part == "tools":
        return f"tools {rest} changed"
    if part == "hooks" and item:
        return f"hook {item} {'is new' if old is None else 'is gone' if new is None else 'changed'}"
    words = _WORDS.get(part, part.replace("_", " "))
    return f"{words} {item} changed" if item and part == "releases" else f"{words} changed"


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _leaves(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Flatten a canonical value to pairs of place and value; artifacts are their digest, lists of words one value."""
    if isinstance(value, dict) and value.keys() == {"sha256", "media_type"}:
        yield place, value["sha256"]
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(f"{place}.{name}" if place else name, item)
    elif isinstance(value, list) and place.rpartition(".")[2] not in _LISTED:
        for number, item in enumerate(value):
            names = [str(item[name]) for name in _NAMES if name in item] if isinstance(item, dict) else []
            yield from _leaves(f"{place}[{names[0] if names else number}]", item)
    else:
        yield place, json.dumps(value)


def _key(inputs: Inputs) -> str:
    subject = re.sub(r"[^A-Za-z0-9_.]+", "-", inputs.subject).strip("-.") or "any"
    return f"inputs/{inputs.task}/{subject}.json"
