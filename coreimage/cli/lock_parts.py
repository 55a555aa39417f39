"""The parts of a channel that have a lock each: its tools, its rootfs, per architecture, and its devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coreimage import rootfs
from coreimage.config import ChannelConfig, Project
from coreimage.errors import NotFoundError, UsageError
from coreimage.http import Downloader
from coreimage.model import Architecture, ArchiveRelease, ArtifactRef, PackageLock, ToolsTree
from coreimage.process import run
from coreimage.publication import BuildTree, parse_build_id
from coreimage.publication.documents import BuildInfo, decode_lock
from coreimage.publication.layout import BUILD_INFO
from coreimage.publication.pointers import read_document
from coreimage.rootfs import ArchiveSpec, Spec, ToolsSpec
from coreimage.rootfs.lock import Which
from coreimage.rootfs.lock_diff import LockDiff, lock_diff
from coreimage.storage import Store, read_bytes


@dataclass(frozen=True)
class Part:
    """`name` is `<product, device or "tools">/<architecture>`; `device` is empty for the rootfs, None for the tools;
    `tree` has its builds."""

    name: str
    architecture: str
    device: str | None
    pointer: str
    tree: BuildTree
    spec: Callable[[Store], Spec]


def channel_parts(project: Project, channel: str, devices: tuple[str, ...]) -> tuple[Part, ...]:
    """Tools first, then rootfs. Raises NotFoundError for an unknown channel, or a device that it has not."""
    config = project.channel(channel)
    unknown = [device for device in devices if device not in config.devices]
    if unknown:
        known = ", ".join(config.devices)
        raise NotFoundError(f"device {unknown[0]!r} is not in channel {channel}", resolution=f"its devices: {known}")
    chosen = [device for device in config.devices if not devices or device in devices]
    architectures = sorted({project.config.devices[device].architecture for device in chosen})
    bases = [_rootfs_part(project, channel, config, architecture) for architecture in architectures]
    parts = (_device_part(project, channel, config, device) for device in chosen)
    return (_tools_part(project, config), *bases, *parts)


def _tools_part(project: Project, config: ChannelConfig) -> Part:
    architecture = rootfs.machine_architecture()
    name, distribution = project.config.project, project.config.tools.distribution
    return Part(
        name=f"tools/{architecture}",
        architecture=architecture,
        device=None,
        pointer=rootfs.tools_lock_pointer(name, distribution, architecture),
        tree=BuildTree(project=name, series=config.series, image_type=config.image_type),
        spec=lambda store: rootfs.tools_spec(project, architecture, store=store),
    )


def _rootfs_part(project: Project, channel: str, config: ChannelConfig, architecture: Architecture) -> Part:
    def spec(store: Store) -> Spec:
        return rootfs.rootfs_spec(project, channel, architecture, store=store)

    return _part(project, config, project.config.series[config.series].product, architecture, "", spec)


def _device_part(project: Project, channel: str, config: ChannelConfig, device: str) -> Part:
    def spec(store: Store) -> Spec:
        return rootfs.device_spec(project, channel, device, store=store)

    return _part(project, config, device, project.config.devices[device].architecture, device, spec)


def _part(
    project: Project,
    config: ChannelConfig,
    part: str,
    architecture: str,
    device: str,
    spec: Callable[[Store], Spec],
) -> Part:
    name = project.config.project
    return Part(
        name=f"{part}/{architecture}",
        architecture=architecture,
        device=device,
        pointer=rootfs.lock_pointer(name, config.series, part, architecture),
        tree=BuildTree(project=name, series=config.series, image_type=config.image_type),
        spec=spec,
    )


def current_locks(parts: tuple[Part, ...], which: Which, *, store: Store) -> dict[str, PackageLock]:
    found = {part.name: rootfs.named_lock(part.pointer, store, which) for part in parts}
    return {name: lock for name, lock in found.items() if lock}


def refresh_locks(parts: tuple[Part, ...], *, store: Store) -> dict[str, LockDiff | None]:
    """Plans every part from one look at the archives; then names the new locks. None: there was no lock before."""
    planning, planned = _Planning(store), []
    for part in parts:
        previous = rootfs.named_lock(part.pointer, store)
        planned.append((part, previous, planning.plan(part.spec(store), previous)))
    for part, _, ref in planned:
        rootfs.move_lock_pointer(part.pointer, ref, store)
    return {
        part.name: lock_diff(previous, rootfs.read_lock(store, ref)) if previous else None
        for part, previous, ref in planned
    }


class _Planning:
    """Looks at every archive once, and makes the tools before the first part that they plan."""

    def __init__(self, store: Store) -> None:
        self._store, self._fetch = store, Downloader()
        self._seen: dict[tuple[ArchiveSpec, ...], tuple[ArchiveRelease, ...]] = {}
        self._tools: ToolsTree | None = None

    def plan(self, spec: Spec, previous: PackageLock | None) -> ArtifactRef:
        store, fetch = self._store, self._fetch
        if spec.archives not in self._seen:
            self._seen[spec.archives] = rootfs.probe_archives(spec.archives, store=store, fetch=fetch, run=run)
        versions = rootfs.tool_versions(self._tools, store) if self._tools else {}
        chosen = rootfs.tools_run(self._tools, store=store) if self._tools else run
        lock = rootfs.plan_packages(
            spec, self._seen[spec.archives], previous, tools=versions, store=store, fetch=fetch, run=chosen
        )
        if isinstance(spec, ToolsSpec):
            self._tools = rootfs.build_tools(lock, store=store, fetch=fetch, run=run)
        return lock


def published_locks(parts: tuple[Part, ...], word: str, *, store: Store) -> dict[str, PackageLock]:
    """The locks that a published build was made from. Raises UsageError or NotFoundError for what is no build."""
    tree = parts[0].tree
    try:
        build_id = parse_build_id(word)
    except UsageError as error:
        choice = "a file, `current`, `previous` or a build id"
        raise UsageError(f"{word!r} names no lock", resolution=f"name {choice}, such as 20261123") from error
    info = read_document(store, tree.key(build_id, BUILD_INFO), BuildInfo)
    if info is None:
        raise NotFoundError(
            f"there is no build {word}", where=tree.prefix, resolution="look there which ones there are"
        )
    tarballs: dict[tuple[str | None, str], str] = {("", entry.architecture): entry.tarball for entry in info.rootfs}
    tarballs |= {(entry.device, entry.architecture): entry.tarball for entry in info.devices}
    keys = {
        part.name: tree.key(build_id, f"{tarballs[place].removesuffix('.tar.gz')}.lock.json")
        for part in parts
        if (place := (part.device, part.architecture)) in tarballs
    }
    return {name: decode_lock(content, key) for name, key in keys.items() if (content := read_bytes(store, key))}


def read_lock_file(path: Path) -> PackageLock:
    return decode_lock(path.read_bytes(), str(path))
