"""The package locks of a channel: planning, reading and comparing them.

Each part of a channel has its own lock: the tools, the rootfs of each architecture, and each device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coreimage import rootfs
from coreimage.errors import NotFoundError, UsageError
from coreimage.host.process import run
from coreimage.http import Downloader
from coreimage.model import Architecture, ArchiveRelease, ArtifactRef, PackageLock, ToolsTree
from coreimage.project.config import Project
from coreimage.publication import BuildTree, build_tree, parse_build_id
from coreimage.publication.builds import is_complete, read_build
from coreimage.publication.documents import decode_lock
from coreimage.rootfs import ArchiveSpec, Spec, ToolsSpec
from coreimage.rootfs.lock import Which
from coreimage.rootfs.lock_diff import LockDiff, lock_diff
from coreimage.storage import Store, read_blob


@dataclass(frozen=True)
class Part:
    """A part of a channel that has a lock of its own."""

    name: str
    """`<product, device or "tools">/<architecture>`."""
    architecture: Architecture
    device: str | None
    """Empty for a rootfs, None for the tools."""
    pointer: str
    """The key in the store that names the part's current lock."""
    builds: BuildTree
    """The tree of the published builds of the part."""
    spec: Callable[[Store], Spec]
    """Makes the spec that the part is planned from; files that it names are put into the store."""


def channel_parts(project: Project, channel: str, devices: tuple[str, ...]) -> tuple[Part, ...]:
    """Return the parts of a channel: the tools, the rootfs of each architecture, then each device.

    Args:
        project: The project that has the channel.
        channel: A channel of the project.
        devices: The only devices, with their architectures; empty for all devices of the channel.

    Raises:
        NotFoundError: There is no such channel, or the channel has no such device.
    """
    chosen = project.devices_of(channel, devices)
    architectures = sorted({project.config.devices[device].architecture for device in chosen})
    return (
        tools_part(project, channel),
        *(rootfs_part(project, channel, architecture) for architecture in architectures),
        *(device_part(project, channel, device) for device in chosen),
    )


def tools_part(project: Project, channel: str) -> Part:
    """Return the part of the tools, for the architecture of this machine."""
    architecture, config = rootfs.machine_architecture(), project.config
    return Part(
        name=f"tools/{architecture}",
        architecture=architecture,
        device=None,
        pointer=rootfs.tools_lock_pointer(config.project, config.tools.distribution, architecture),
        builds=build_tree(project, channel),
        spec=lambda store: rootfs.tools_spec(project, architecture, store=store),
    )


def rootfs_part(project: Project, channel: str, architecture: Architecture) -> Part:
    """Return the part of the rootfs of an architecture."""
    series = project.channel(channel).series
    product = project.config.series[series].product
    return Part(
        name=f"{product}/{architecture}",
        architecture=architecture,
        device="",
        pointer=rootfs.lock_pointer(project.config.project, series, product, architecture),
        builds=build_tree(project, channel),
        spec=lambda store: rootfs.rootfs_spec(project, channel, architecture, store=store),
    )


def device_part(project: Project, channel: str, device: str) -> Part:
    """Return the part of a device."""
    series, architecture = project.channel(channel).series, project.config.devices[device].architecture
    return Part(
        name=f"{device}/{architecture}",
        architecture=architecture,
        device=device,
        pointer=rootfs.lock_pointer(project.config.project, series, device, architecture),
        builds=build_tree(project, channel),
        spec=lambda store: rootfs.device_spec(project, channel, device, store=store),
    )


def current_locks(parts: tuple[Part, ...], which: Which, *, store: Store) -> dict[str, PackageLock]:
    """Return the current or the previous locks of the parts that have one, by the parts' names."""
    locks = {part.name: rootfs.named_lock(part.pointer, store, which) for part in parts}
    return {name: lock for name, lock in locks.items() if lock}


def refresh_locks(parts: tuple[Part, ...], *, store: Store) -> dict[str, LockDiff | None]:
    """Plan every part from one look at the archives, then make the new locks the current ones.

    Returns:
        The difference of each part's lock from the one before, by the part's name; None where there was none.
    """
    planner, planned = _Planner(store), []
    for part in parts:
        previous = rootfs.named_lock(part.pointer, store)
        planned.append((part, previous, planner.plan(part.spec(store), previous)))
    for part, _, ref in planned:
        rootfs.move_lock_pointer(part.pointer, ref, store)
    return {
        part.name: lock_diff(previous, rootfs.read_lock(store, ref)) if previous else None
        for part, previous, ref in planned
    }


def published_locks(parts: tuple[Part, ...], word: str, *, store: Store) -> dict[str, PackageLock]:
    """Return the locks that a published build was made from, by the names of the parts that it has.

    Args:
        parts: Parts of one channel.
        word: The build id, as the user typed it.
        store: The store that has the build.

    Raises:
        UsageError: `word` is no build id.
        NotFoundError: There is no such build.
    """
    builds = parts[0].builds
    try:
        build_id = parse_build_id(word)
    except UsageError as error:
        choice = "a file, `current`, `previous` or a build id"
        raise UsageError(f"{word!r} names no lock", resolution=f"name {choice}, such as 20261123") from error
    if not is_complete(builds, build_id, store=store):
        raise NotFoundError(
            f"there is no build {word}", where=builds.prefix, resolution="`coreimage builds CHANNEL` lists them"
        )
    files = read_build(builds, build_id, store=store).files
    refs = {(file.device or "", file.architecture): file.artifact for file in files if file.role == "lock"}
    return {
        part.name: decode_lock(read_blob(store, ref), ref.uri)
        for part in parts
        if part.device is not None and (ref := refs.get((part.device, part.architecture)))
    }


def read_lock_file(path: Path) -> PackageLock:
    """Read a lock from a file.

    Raises:
        VerificationError: The file is no lock.
    """
    return decode_lock(path.read_bytes(), str(path))


class _Planner:
    """Plans several parts from one look at each archive; the tools are built from their own plan, which comes first."""

    def __init__(self, store: Store) -> None:
        self._store, self._fetch = store, Downloader()
        self._releases: dict[tuple[ArchiveSpec, ...], tuple[ArchiveRelease, ...]] = {}
        self._tools: ToolsTree | None = None

    def plan(self, spec: Spec, previous: PackageLock | None) -> ArtifactRef:
        store, fetch = self._store, self._fetch
        if spec.archives not in self._releases:
            self._releases[spec.archives] = rootfs.probe_archives(spec.archives, store=store, fetch=fetch, run=run)
        lock = rootfs.plan_packages(
            spec,
            self._releases[spec.archives],
            previous,
            tools=rootfs.tool_versions(self._tools, store) if self._tools else {},
            store=store,
            fetch=fetch,
            run=rootfs.tools_run(self._tools, store=store) if self._tools else run,
        )
        if isinstance(spec, ToolsSpec):
            self._tools = rootfs.build_tools(lock, store=store, fetch=fetch, run=run)
        return lock
