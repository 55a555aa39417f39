"""Archives, packages and chroots as tasks."""

from __future__ import annotations

from typing import TypeAlias

from coreimage import rootfs
from coreimage.model import ArchiveRelease, ArtifactRef, DeviceBuild, PackageLock, RootfsBuild
from coreimage.process import run
from coreimage.rootfs import ArchiveSpec, DeviceSpec, RootfsSpec
from tasks.caching import artifact_task, live_task
from tasks.site import Site, live_lines

Spec: TypeAlias = RootfsSpec | DeviceSpec

# `client` and `device` are copied into the rootfs.
_CODE = ("coreimage.client", "coreimage.device")


@live_task()
def probe_archives(archives: tuple[ArchiveSpec, ...], *, site: Site) -> tuple[ArchiveRelease, ...]:
    """How each archive stands now; the only step that runs when nothing has changed."""
    return rootfs.probe_archives(archives, store=site.store(), fetch=site.fetch(), run=run)


@artifact_task(code=_CODE, exclude=["previous"])
def plan_packages(
    spec: Spec,
    releases: tuple[ArchiveRelease, ...],
    previous: PackageLock | None,
    tools: dict[str, str],
    *,
    site: Site,
) -> ArtifactRef:
    """The lock. `previous` only keeps a lock the same when its packages are: it decides nothing, so it is no input."""
    return rootfs.plan_packages(spec, releases, previous, tools=tools, store=site.store(), fetch=site.fetch(), run=run)


@artifact_task(code=_CODE)
def build_rootfs(spec: RootfsSpec, lock: ArtifactRef, *, site: Site) -> RootfsBuild:
    lines = live_lines("mmdebstrap")
    return rootfs.build_rootfs(spec, lock, store=site.store(), fetch=site.fetch(), run=run, on_line=lines)


@artifact_task(code=_CODE)
def build_device(spec: DeviceSpec, lock: ArtifactRef, *, site: Site) -> DeviceBuild:
    lines = live_lines("mmdebstrap")
    return rootfs.build_device(spec, lock, store=site.store(), fetch=site.fetch(), run=run, on_line=lines)
