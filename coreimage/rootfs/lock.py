"""Locks: exactly what a chroot is made of, where the newest one is named, and when a new one is made. docs/lock.md"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from coreimage.errors import LostWriteError, NotFoundError, UsageError
from coreimage.model import JSON, ArtifactRef, PackageLock
from coreimage.rootfs.spec import DeviceSpec, Spec, ToolsSpec
from coreimage.storage import Store, put_blob_bytes, read_blob, read_bytes, swap

Which = Literal["current", "previous"]

_PLANNED_FROM = ("archives", "packages")
"""The parts of a configuration that decide which packages there are."""


def read_lock(store: Store, ref: ArtifactRef) -> PackageLock:
    """Read a lock from the store."""
    return PackageLock.model_validate_json(read_blob(store, ref))


def store_lock(store: Store, lock: PackageLock) -> ArtifactRef:
    """Put a lock into the store, with one fact a line so that two locks can be compared as text."""
    return put_blob_bytes(store, f"{lock.model_dump_json(indent=1)}\n".encode(), JSON)


def configuration(spec: Spec) -> dict[str, str]:
    """Return the digest of each part of the project's configuration that shapes the chroot, sorted by part. Pure."""
    parts = {"archives": _digest(*(archive.model_dump_json(exclude_defaults=True) for archive in spec.archives))}
    parts |= {"packages": _digest(*spec.packages)}
    if isinstance(spec, ToolsSpec):
        return parts
    parts |= {"system files": spec.system_files.sha256}
    if isinstance(spec, DeviceSpec):
        return dict(sorted({**parts, "device": _digest(spec.device)}.items()))
    parts |= {"host name": _digest(spec.hostname), "hooks": _digest(*(hook.name for hook in spec.hooks))}
    parts |= {"overlay": spec.overlay.sha256} if spec.overlay else {}
    return dict(sorted({**parts, **{f"hook {hook.name}": hook.script.sha256 for hook in spec.hooks}}.items()))


def keep_previous(previous: PackageLock | None, planned: PackageLock) -> PackageLock:
    """Return `planned` with the releases and the epoch of `previous` if the packages are the same. Pure.

    So nothing is built again because an archive moved on. Other tools or another configuration still make another lock.
    """
    if previous is None or (previous.architecture, previous.packages) != (planned.architecture, planned.packages):
        return planned
    return planned.model_copy(update={"epoch": previous.epoch, "releases": previous.releases})


def offline_lock(current: PackageLock | None, spec: Spec, tools: Mapping[str, str], where: str) -> PackageLock:
    """Return the current lock for the present tools, hooks and files, without asking an archive. Pure.

    Args:
        current: The lock that is named now.
        spec: What is to be built.
        tools: Versions of the present tools.
        where: What errors call the lock.

    Raises:
        NotFoundError: There is no current lock.
        UsageError: The project file asks for other packages or archives than the lock has.
    """
    refresh = "run `coreimage lock CHANNEL --refresh`, or build once, while the archives can be reached"
    if current is None:
        raise NotFoundError("there is no lock to build from offline", where=where, resolution=refresh)
    wanted = configuration(spec)
    changed = [part for part in _PLANNED_FROM if current.configuration.get(part) != wanted[part]]
    if changed:
        raise UsageError(
            f"the project file has other {' and '.join(changed)} than the lock",
            where=where,
            resolution=refresh,
        )
    return current.model_copy(update={"tools": dict(tools), "configuration": wanted})


class Offline:
    """The `Fetch` of a build that must not touch the network: what is not in the store is missing."""

    def __call__(
        self,
        url: str,
        path: Path,
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        limit_bytes: int | None = None,
    ) -> Path:
        raise NotFoundError(
            f"{url.rpartition('/')[2]} is not in the store, and offline nothing is downloaded",
            where=url,
            resolution="build once without --offline: every .deb is then kept in the store",
        )


def lock_pointer(project: str, series: str, part: str, architecture: str) -> str:
    """Return the key in the store that names the current lock of a product or device."""
    return f"locks/{project}/{series}/{part}/{architecture}.json"


def tools_lock_pointer(project: str, distribution: str, architecture: str) -> str:
    """Return the same for a project's tools, which all its series are built with."""
    return f"locks/{project}/tools/{distribution}/{architecture}.json"


def named_lock(pointer: str, store: Store, which: Which = "current") -> PackageLock | None:
    """Return the lock that a pointer names, or named before; None if there is none or its blob was removed."""
    key = pointer if which == "current" else _previous(pointer)
    if store.head(key) is None:
        return None
    with store.open(key) as file:
        ref = ArtifactRef.model_validate_json(file.read())
    return read_lock(store, ref) if store.head(ref.uri) else None


def move_lock_pointer(pointer: str, lock: ArtifactRef, store: Store) -> None:
    """Let a pointer name `lock`, and remember the lock that it named before.

    When somebody else moved the pointer in between, theirs stays: it is as new as ours.
    """
    content = f"{lock.model_dump_json()}\n".encode()
    info = store.head(pointer)
    before = read_bytes(store, pointer) if info else None
    if before == content:
        return
    if before is not None:
        store.put_bytes(_previous(pointer), before, media_type=JSON)
    with suppress(LostWriteError):
        store.put_bytes(pointer, content, media_type=JSON, if_absent=info is None, if_match=info.etag if info else None)


def released_lock(pointer: str, channel: str, store: Store) -> PackageLock | None:
    """Return the lock of a part that a channel was last released with, or None if that is not known.

    It is not the current lock: a build of that may have failed.

    Args:
        pointer: Names the current lock of the part.
        channel: The channel.
        store: Where locks are.
    """
    return named_lock(_released(pointer, channel), store)


def note_released(pointer: str, channel: str, lock: ArtifactRef, store: Store) -> None:
    """Remember that a channel was released with `lock`, for `released_lock`."""
    content = f"{lock.model_dump_json()}\n".encode()
    swap(store, _released(pointer, channel), lambda _: content, media_type=JSON)


def _released(pointer: str, channel: str) -> str:
    return f"{pointer.removesuffix('.json')}/{channel}.released.json"


def _previous(pointer: str) -> str:
    return f"{pointer.removesuffix('.json')}.previous.json"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
