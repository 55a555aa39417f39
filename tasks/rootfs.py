"""The tasks for archives, locks of packages, the tools and the chroots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coreimage import http, rootfs
from coreimage.host.process import run
from coreimage.http import show_total
from coreimage.logs import story
from coreimage.model import (
    Architecture,
    ArchiveRelease,
    ArtifactRef,
    CustomBuild,
    DeviceBuild,
    PackageLock,
    RootfsBuild,
    ToolsTree,
    Value,
)
from coreimage.project.config import Project
from coreimage.rootfs import ArchiveSpec, DeviceSpec, RootfsSpec, Spec, ToolsSpec
from coreimage.rootfs.lock_diff import lock_diff
from coreimage.storage import blob_key
from tasks.factory import artifact_task, live_task
from tasks.site import Site, live_lines
from tasks.story import packages

# `client` and `device` are copied into the rootfs.
_CODE = ("coreimage.client", "coreimage.device")


class ChosenLock(Value):
    """The lock of one part of a build, which `pointer` names, and its package changes since the last release.

    `part` is the part's name for people, such as `core for amd64`.
    """

    part: str
    pointer: str
    lock: ArtifactRef
    changes: tuple[str, ...]


@live_task(title="Looking at the archives", dry_run=True)
def probe_archives(archives: tuple[ArchiveSpec, ...], *, site: Site) -> tuple[ArchiveRelease, ...]:
    """Read the present state of each archive; the only task that runs when nothing has changed."""
    return rootfs.probe_archives(archives, store=site.store(), fetch=site.fetch(), run=run)


@artifact_task(title="Choosing the packages of the tools", exclude=["previous"], dry_run=True)
def plan_tools(
    spec: ToolsSpec, releases: tuple[ArchiveRelease, ...], previous: PackageLock | None, *, site: Site
) -> ArtifactRef:
    """Choose the packages of the tools with the machine's own apt, and return their lock.

    For `previous` see `plan_packages`.
    """
    return rootfs.plan_packages(spec, releases, previous, tools={}, store=site.store(), fetch=site.fetch(), run=run)


@artifact_task(title="Unpacking the tools")
def build_tools(lock: ArtifactRef, *, site: Site) -> ToolsTree:
    """Unpack the packages of the tools' lock to a tools tree."""
    with package_downloads(lock, site) as fetch:
        return rootfs.build_tools(lock, store=site.store(), fetch=fetch, run=run)


@live_task(quiet=True)
def offer_tools(tools: ToolsTree, *, site: Site) -> None:
    """Publish the tools for `flash`, which makes the same images with them; offering them again changes nothing."""
    rootfs.offer_tools(tools, rootfs.machine_architecture(), store=site.store(), signer=site.signer())


@artifact_task(title="Choosing the packages of {part}", code=_CODE, exclude=["part", "previous"], dry_run=True)
def plan_packages(
    part: str,  # noqa: ARG001 - it is in the title
    spec: RootfsSpec | DeviceSpec,
    releases: tuple[ArchiveRelease, ...],
    previous: PackageLock | None,
    tools: ToolsTree,
    *,
    site: Site,
) -> ArtifactRef:
    """Choose the packages of a part of the build, and return their lock.

    `previous` is no input of the cache key, since it decides nothing: when the packages are the same, so is the lock.
    """
    store = site.store()
    versions = rootfs.tool_versions(tools, store)
    return rootfs.plan_packages(
        spec, releases, previous, tools=versions, store=store, fetch=site.fetch(), run=site.run(tools)
    )


@live_task(title="Taking the current lock of {part}", quiet=True, dry_run=True)
def current_lock(
    part: str,  # noqa: ARG001 - it is in the title
    spec: Spec,
    current: PackageLock | None,
    tools: ToolsTree | None,
    *,
    site: Site,
) -> ArtifactRef:
    """Return the lock with the packages of `current` for the present tools, hooks and files, asking no archive."""
    versions = rootfs.tool_versions(tools, site.store()) if tools else {}
    return rootfs.store_lock(site.store(), rootfs.offline_lock(current, spec, versions, site.channel))


@live_task(title="Recording the lock of {part}", quiet=True)
def record_lock(part: str, pointer: str, lock: ArtifactRef, *, site: Site) -> ChosenLock:
    """Move the pointer to the lock, so that the next plan starts from it, and report its package changes.

    The changes are those since the channel's last release: plans of failed runs in between were never seen by anyone.
    """
    store = site.store()
    chosen, released = rootfs.read_lock(store, lock), rootfs.released_lock(pointer, site.channel, store)
    rootfs.move_lock_pointer(pointer, lock, store)
    if released is None:
        story.info(packages(chosen, changed=None))
        changes: tuple[str, ...] = (f"first lock: {len(chosen.packages)} packages",)
    else:
        difference = lock_diff(released, chosen)
        story.info(packages(chosen, changed=len(difference.packages) + len(difference.repacked)))
        changes = difference.lines()
    return ChosenLock(part=part, pointer=pointer, lock=lock, changes=changes)


@live_task(title="Recording what was released", quiet=True)
def record_release(locks: tuple[ChosenLock, ...], *, site: Site) -> None:
    """Record the locks that the channel was released with; the next report of changes starts from them."""
    for each in locks:
        rootfs.note_released(each.pointer, site.channel, each.lock, site.store())


@artifact_task(title="Building the rootfs for {spec.architecture}", code=_CODE, once=True)
def build_rootfs(spec: RootfsSpec, lock: ArtifactRef, tools: ToolsTree, *, site: Site) -> RootfsBuild:
    """Build the rootfs tarball of an architecture, with its manifest and log."""
    lines, store = live_lines("mmdebstrap"), site.store()
    with package_downloads(lock, site) as fetch:
        return rootfs.build_rootfs(spec, lock, store=store, fetch=fetch, run=site.run(tools), on_line=lines)


@artifact_task(title="Building kernel and initrd of {spec.device}", code=_CODE, once=True)
def build_device(spec: DeviceSpec, lock: ArtifactRef, tools: ToolsTree, *, site: Site) -> DeviceBuild:
    """Build the device tarball, kernel, initrd and modules, with its manifest and log."""
    lines, store = live_lines("mmdebstrap"), site.store()
    with package_downloads(lock, site) as fetch:
        return rootfs.build_device(spec, lock, store=store, fetch=fetch, run=site.run(tools), on_line=lines)


@live_task(title="Packing the files of the product for {architecture}", quiet=True, dry_run=True)
def build_custom(
    project: Project, channel: str, architecture: Architecture, lock: ArtifactRef, tools: ToolsTree, *, site: Site
) -> CustomBuild:
    """Pack the files of the product for an architecture; they come from a folder, and are packed in every run."""
    return rootfs.build_custom(project, channel, architecture, lock, store=site.store(), run=site.run(tools))


@contextmanager
def package_downloads(lock: ArtifactRef, site: Site) -> Iterator[http.Fetch]:
    """Yield what downloads the packages of a lock, with one progress bar for those that the store lacks."""
    store = site.store()
    missing = [
        package for package in rootfs.read_lock(store, lock).packages if not store.head(blob_key(package.sha256))
    ]
    if not missing or site.offline:
        yield site.fetch()
        return
    title = f"{len(missing)} package{'s' if len(missing) > 1 else ''}"
    with show_total(title, sum(package.size_bytes for package in missing)) as shown:
        yield http.Downloader(progress=shown)
