"""Archives, packages and chroots as tasks; and the pointer to the lock that a channel's next plan starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from coreimage import http, progress, rootfs
from coreimage.errors import ConflictError
from coreimage.model import JSON, ArchiveRelease, ArtifactRef, DeviceBuild, PackageLock, RootfsBuild
from coreimage.process import run
from coreimage.rootfs import ArchiveSpec, DeviceSpec, RootfsSpec
from coreimage.storage import Store, blob_key, read_blob
from tasks.caching import artifact_task, live_task
from tasks.site import Site, live_lines

Spec: TypeAlias = RootfsSpec | DeviceSpec

# `client` and `device` are copied into the rootfs.
_CODE = ("coreimage.rootfs", "coreimage.tarball", "coreimage.client", "coreimage.device")


@live_task()
def probe_archives(archives: tuple[ArchiveSpec, ...], *, site: Site) -> tuple[ArchiveRelease, ...]:
    """How each archive stands now; the only step that runs when nothing has changed."""
    return rootfs.probe_archives(archives, store=site.store(), fetch=http.Downloader(), run=run)


@artifact_task(code=_CODE, exclude=["previous"])
def plan_packages(
    spec: Spec,
    releases: tuple[ArchiveRelease, ...],
    previous: PackageLock | None,
    *,
    site: Site,
) -> ArtifactRef:
    """The lock. `previous` only keeps a lock the same when its packages are: it decides nothing, so it is no input."""
    return rootfs.plan_packages(spec, releases, previous, store=site.store(), fetch=http.Downloader(), run=run)


@artifact_task(code=_CODE)
def build_rootfs(spec: RootfsSpec, lock: ArtifactRef, *, site: Site) -> RootfsBuild:
    lines, store = live_lines("mmdebstrap"), site.store()
    with package_downloads(lock, store) as fetch:
        return rootfs.build_rootfs(spec, lock, store=store, fetch=fetch, run=run, on_line=lines)


@artifact_task(code=_CODE)
def build_device(spec: DeviceSpec, lock: ArtifactRef, *, site: Site) -> DeviceBuild:
    lines, store = live_lines("mmdebstrap"), site.store()
    with package_downloads(lock, store) as fetch:
        return rootfs.build_device(spec, lock, store=store, fetch=fetch, run=run, on_line=lines)


@contextmanager
def package_downloads(lock: ArtifactRef, store: Store) -> Iterator[http.Fetch]:
    """Shows the packages that the store lacks as one download, whose size is known before."""
    missing = [
        package for package in rootfs.read_lock(store, lock).packages if not store.head(blob_key(package.sha256))
    ]
    if not missing:
        yield http.Downloader()
        return
    packages = f"{len(missing)} package{'s' if len(missing) > 1 else ''}"
    with progress.all_files(packages, sum(package.size_bytes for package in missing)) as shown:
        yield http.Downloader(progress=shown)


def lock_pointer(project: str, series: str, part: str, architecture: str) -> str:
    """Where the newest lock of a product or device is named."""
    return f"locks/{project}/{series}/{part}/{architecture}.json"


def previous_lock(pointer: str, store: Store) -> PackageLock | None:
    """The lock that the pointer names; None when there is none, or its blob was deleted."""
    if store.head(pointer) is None:
        return None
    with store.open(pointer) as file:
        ref = ArtifactRef.model_validate_json(file.read())
    return PackageLock.model_validate_json(read_blob(store, ref)) if store.head(ref.uri) else None


def move_lock_pointer(pointer: str, lock: ArtifactRef, store: Store) -> None:
    """Names `lock`. When somebody else moved the pointer in between, theirs stays: it is as new as ours."""
    content = f"{lock.model_dump_json()}\n".encode()
    found = store.head(pointer)
    if found is not None:
        with store.open(pointer) as file:
            if file.read() == content:
                return
    try:
        store.put_bytes(
            pointer, content, media_type=JSON, if_absent=found is None, if_match=found.etag if found else None
        )
    except ConflictError:
        return
