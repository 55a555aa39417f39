"""Archives, packages and chroots as tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coreimage import http, progress, rootfs
from coreimage.model import ArchiveRelease, ArtifactRef, DeviceBuild, PackageLock, RootfsBuild, ToolsTree
from coreimage.process import run
from coreimage.rootfs import ArchiveSpec, DeviceSpec, RootfsSpec, ToolsSpec
from coreimage.storage import blob_key
from tasks.caching import artifact_task, live_task
from tasks.site import Site, live_lines

# `client` and `device` are copied into the rootfs.
_CODE = ("coreimage.client", "coreimage.device")


@live_task()
def probe_archives(archives: tuple[ArchiveSpec, ...], *, site: Site) -> tuple[ArchiveRelease, ...]:
    """How each archive stands now; the only step that runs when nothing has changed."""
    return rootfs.probe_archives(archives, store=site.store(), fetch=site.fetch(), run=run)


@artifact_task(exclude=["previous"])
def plan_tools(
    spec: ToolsSpec, releases: tuple[ArchiveRelease, ...], previous: PackageLock | None, *, site: Site
) -> ArtifactRef:
    """The lock of the tools: the one plan that the machine's own apt makes. `previous`: see `plan_packages`."""
    return rootfs.plan_packages(spec, releases, previous, tools={}, store=site.store(), fetch=site.fetch(), run=run)


@artifact_task()
def build_tools(lock: ArtifactRef, *, site: Site) -> ToolsTree:
    with package_downloads(lock, site) as fetch:
        return rootfs.build_tools(lock, store=site.store(), fetch=fetch, run=run)


@live_task()
def offer_tools(tools: ToolsTree, *, site: Site) -> None:
    """What `flash` runs, so that its images are those of the build; offering the same again changes nothing."""
    rootfs.offer_tools(tools, rootfs.machine_architecture(), store=site.store(), signer=site.signer())


@artifact_task(code=_CODE, exclude=["previous"])
def plan_packages(
    spec: RootfsSpec | DeviceSpec,
    releases: tuple[ArchiveRelease, ...],
    previous: PackageLock | None,
    tools: ToolsTree,
    *,
    site: Site,
) -> ArtifactRef:
    """The lock. `previous` only keeps a lock the same when its packages are: it decides nothing, so it is no input."""
    store = site.store()
    versions = rootfs.tool_versions(tools, store)
    return rootfs.plan_packages(
        spec, releases, previous, tools=versions, store=store, fetch=site.fetch(), run=site.run(tools)
    )


@artifact_task(code=_CODE, once=True)
def build_rootfs(spec: RootfsSpec, lock: ArtifactRef, tools: ToolsTree, *, site: Site) -> RootfsBuild:
    lines, store = live_lines("mmdebstrap"), site.store()
    with package_downloads(lock, site) as fetch:
        return rootfs.build_rootfs(spec, lock, store=store, fetch=fetch, run=site.run(tools), on_line=lines)


@artifact_task(code=_CODE, once=True)
def build_device(spec: DeviceSpec, lock: ArtifactRef, tools: ToolsTree, *, site: Site) -> DeviceBuild:
    lines, store = live_lines("mmdebstrap"), site.store()
    with package_downloads(lock, site) as fetch:
        return rootfs.build_device(spec, lock, store=store, fetch=fetch, run=site.run(tools), on_line=lines)


@contextmanager
def package_downloads(lock: ArtifactRef, site: Site) -> Iterator[http.Fetch]:
    """Shows the packages that the store lacks as one download, whose size is known before."""
    store = site.store()
    missing = [
        package for package in rootfs.read_lock(store, lock).packages if not store.head(blob_key(package.sha256))
    ]
    if not missing or site.offline:
        yield site.fetch()
        return
    packages = f"{len(missing)} package{'s' if len(missing) > 1 else ''}"
    with progress.all_files(packages, sum(package.size_bytes for package in missing)) as shown:
        yield http.Downloader(progress=shown)
