"""Locks: exactly what a chroot is made of, where the newest is named, and what makes a new one. docs/lock.md"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from coreimage.errors import ConflictError, NotFoundError, UsageError
from coreimage.model import JSON, ArtifactRef, PackageLock
from coreimage.rootfs.spec import DeviceSpec, Spec, ToolsSpec
from coreimage.storage import Store, put_blob_bytes, read_blob

Which = Literal["current", "previous"]

_PLANNED_FROM = ("archives", "packages")
"""The parts of a configuration that decide which packages there are."""


def read_lock(store: Store, ref: ArtifactRef) -> PackageLock:
    return PackageLock.model_validate_json(read_blob(store, ref))


def store_lock(store: Store, lock: PackageLock) -> ArtifactRef:
    """One fact a line, so that two locks can be compared as text."""
    return put_blob_bytes(store, f"{lock.model_dump_json(indent=1)}\n".encode(), JSON)


def configuration(spec: Spec) -> dict[str, str]:
    """Pure: the digest of each part of the project's configuration that shapes the chroot, sorted by part."""
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
    """Pure: the earlier archives and epoch, when the packages are the same: a moved archive rebuilds nothing.

    Other tools or another configuration make another lock all the same, with the earlier epoch.
    """
    if previous is None or (previous.architecture, previous.packages) != (planned.architecture, planned.packages):
        return planned
    return planned.model_copy(update={"epoch": previous.epoch, "releases": previous.releases})


def offline_lock(current: PackageLock | None, spec: Spec, tools: Mapping[str, str], where: str) -> PackageLock:
    """Pure: the current lock for the present tools, hooks and files, without an archive being asked.

    Raises NotFoundError when there is none, UsageError when the project file asks for other packages or archives.
    """
    refresh = "run `coreimage lock CHANNEL --refresh`, or build once, while the archives can be reached"
    if current is None:
        raise NotFoundError("there is no lock to build from offline", where=where, resolution=refresh)
    wanted = configuration(spec)
    changed = [part for part in _PLANNED_FROM if current.configuration.get(part) != wanted[part]]
    if changed:
        raise UsageError(
            f"the project file's {' and '.join(changed)} are others than those of the lock",
            where=where,
            resolution=refresh,
        )
    return current.model_copy(update={"tools": dict(tools), "configuration": wanted})


class Offline:
    """The `Fetch` of a build that must not touch the network: whatever is not in the store is missing."""

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
    """Where the newest lock of a product or device is named."""
    return f"locks/{project}/{series}/{part}/{architecture}.json"


def tools_lock_pointer(project: str, distribution: str, architecture: str) -> str:
    """The same for a project's tools, which all its series are built with."""
    return f"locks/{project}/tools/{distribution}/{architecture}.json"


def named_lock(pointer: str, store: Store, which: Which = "current") -> PackageLock | None:
    """The lock that the pointer names, or named before; None when there is none, or its blob is gone."""
    key = pointer if which == "current" else _previous(pointer)
    if store.head(key) is None:
        return None
    with store.open(key) as file:
        ref = ArtifactRef.model_validate_json(file.read())
    return read_lock(store, ref) if store.head(ref.uri) else None


def move_lock_pointer(pointer: str, lock: ArtifactRef, store: Store) -> None:
    """Names `lock`. When somebody else moved the pointer in between, theirs stays: it is as new as ours."""
    content = f"{lock.model_dump_json()}\n".encode()
    found = store.head(pointer)
    if found is not None:
        with store.open(pointer) as file:
            before = file.read()
        if before == content:
            return
        store.put_bytes(_previous(pointer), before, media_type=JSON)
    try:
        store.put_bytes(
            pointer, content, media_type=JSON, if_absent=found is None, if_match=found.etag if found else None
        )
    except ConflictError:
        return


def released_lock(pointer: str, channel: str, store: Store) -> PackageLock | None:
    """What a channel was last released with of the part that `pointer` is of; None when that is not known.

    The newest lock that was planned may never have come to anything.
    """
    return named_lock(_released(pointer, channel), store)


def note_released(pointer: str, channel: str, lock: ArtifactRef, store: Store) -> None:
    """Names `lock` as what the channel was released with."""
    key, content = _released(pointer, channel), f"{lock.model_dump_json()}\n".encode()
    if store.head(key) is not None:
        with store.open(key) as file:
            if file.read() == content:
                return
    store.put_bytes(key, content, media_type=JSON)


def _released(pointer: str, channel: str) -> str:
    return f"{pointer.removesuffix('.json')}/{channel}.released.json"


def _previous(pointer: str) -> str:
    return f"{pointer.removesuffix('.json')}.previous.json"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
