"""The document build.json: what a published build is and what it was made from. Pure.

Format 2 describes every file. Format 1, which earlier code wrote, does not: `described_files` derives it, and is the
only place that takes file names apart. It can be removed when no store has builds of format 1 any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from coreimage.model import (
    JSON,
    LOG,
    TAR_GZ,
    TEXT,
    Architecture,
    FileRole,
    PackageLock,
    PublishedFile,
    Sha256,
    Value,
)
from coreimage.publication.build_id import BuildId
from coreimage.publication.content import BuildContent, content_sha256
from coreimage.publication.layout import SUFFIXES, device_stem, image_stem


class Source(Value):
    """One suite of one archive that packages came from, in the state that was used."""

    uri: str
    suite: str
    date: str
    """RFC 3339, UTC."""
    release_sha256: Sha256


class RootfsInfo(Value):
    """The rootfs of one architecture that was built; `tarball` is its file name."""

    architecture: Architecture
    tarball: str
    tarball_sha256: Sha256
    lock_sha256: Sha256


class DeviceInfo(Value):
    """The part of one device that was built; `tarball` is its file name."""

    device: str
    architecture: Architecture
    tarball: str
    tarball_sha256: Sha256
    lock_sha256: Sha256


class FileInfo(Value):
    """The description of one file. Its digest is in SHA256SUMS only: the log may be that of another run."""

    name: str
    role: FileRole
    architecture: Architecture
    device: str | None
    media_type: str


class Carried(Value):
    """The files of an architecture that could not be built: those of the build `build_id`, unchanged."""

    architecture: Architecture
    build_id: str
    files: tuple[str, ...]


class BuildInfo(Value):
    """The document build.json.

    Attributes:
        epoch: The time of the newest lock, seconds, UTC.
        architectures: Those that were built, without those that were carried over.
        sources: The suites that packages came from, sorted by URI and suite.
        carried: The architectures whose files are those of an earlier build.
        files: All files that SHA256SUMS lists except build.json itself, sorted by name; empty in format 1.
    """

    format: Literal[1, 2] = 2
    build_id: str
    project: str
    series: str
    codename: str
    product: str
    image_type: str
    content_sha256: Sha256
    epoch: int
    architectures: tuple[Architecture, ...]
    rootfs: tuple[RootfsInfo, ...]
    devices: tuple[DeviceInfo, ...]
    sources: tuple[Source, ...]
    carried: tuple[Carried, ...] = ()
    files: tuple[FileInfo, ...] = ()


def build_info(
    content: BuildContent,
    build_id: BuildId,
    files: Iterable[PublishedFile],
    locks: Mapping[str, PackageLock],
    carried: tuple[Carried, ...] = (),
) -> BuildInfo:
    """Compose build.json.

    Args:
        content: The content of the build.
        build_id: The id under which `content` is published.
        files: All files of the build but build.json, those of `carried` among them.
        locks: Every lock that `content` names, by SHA-256.
        carried: The architectures that could not be built and are carried over.
    """
    sources = {
        Source(uri=release.uri, suite=release.suite, date=release.date, release_sha256=release.release_sha256)
        for lock in locks.values()
        for release in lock.releases
    }
    return BuildInfo(
        build_id=str(build_id),
        **content.model_dump(exclude={"rootfs", "devices", "custom"}),
        content_sha256=content_sha256(content),
        epoch=max(lock.epoch for lock in locks.values()),
        architectures=content.architectures,
        rootfs=tuple(
            RootfsInfo(
                architecture=build.architecture,
                tarball=f"{image_stem(content, build.architecture)}{SUFFIXES['rootfs']}",
                tarball_sha256=build.rootfs.sha256,
                lock_sha256=build.lock.sha256,
            )
            for build in content.rootfs
        ),
        devices=tuple(
            DeviceInfo(
                device=build.device,
                architecture=build.architecture,
                tarball=f"{device_stem(content, build)}{SUFFIXES['device']}",
                tarball_sha256=build.tarball.sha256,
                lock_sha256=build.lock.sha256,
            )
            for build in content.devices
        ),
        sources=tuple(sorted(sources, key=lambda source: [*source.model_dump().values()])),
        carried=carried,
        files=tuple(
            FileInfo(
                name=file.name,
                role=file.role,
                architecture=file.architecture,
                device=file.device,
                media_type=file.artifact.media_type,
            )
            for file in sorted(files, key=lambda file: file.name)
        ),
    )


def described_files(info: BuildInfo, names: Collection[str]) -> tuple[FileInfo, ...]:
    """Return the descriptions of the files of a build from its build.json of any format.

    Args:
        info: The document.
        names: The files that SHA256SUMS lists. In format 1, only files of these names are derived.
    """
    if info.format > 1:
        return info.files
    owners: dict[str, tuple[Architecture, str | None]] = {}
    for carried in info.carried:
        owners |= _carried_owners(carried)
    owners |= {rootfs.tarball.removesuffix(_TAR): (rootfs.architecture, None) for rootfs in info.rootfs}
    owners |= {device.tarball.removesuffix(_TAR): (device.architecture, device.device) for device in info.devices}
    files = [
        FileInfo(
            name=name,
            role=role,
            architecture=architecture,
            device=device,
            media_type=_MEDIA_TYPES.get(role, TAR_GZ),
        )
        for stem, (architecture, device) in owners.items()
        for role in (_ROOTFS_ROLES if device is None else _DEVICE_ROLES)
        if (name := f"{stem}{SUFFIXES[role]}") in names
    ]
    return tuple(files)


_TAR = SUFFIXES["rootfs"]
_ROOTFS_ROLES: tuple[FileRole, ...] = ("rootfs", "custom", "manifest", "filelist", "lock", "log")
_DEVICE_ROLES: tuple[FileRole, ...] = ("device", "manifest", "lock", "log")
_MEDIA_TYPES: dict[FileRole, str] = {"manifest": TEXT, "filelist": TEXT, "lock": JSON, "log": LOG}


def _carried_owners(carried: Carried) -> dict[str, tuple[Architecture, str | None]]:
    """Return the rootfs or device that each stem of file names stands for, where format 1 has only the names.

    `….device` is generic_<architecture>, `….azure.device` is azure_<architecture>: devices of other names could not be
    imported then.
    """
    stems = [name.removesuffix(_TAR) for name in carried.files if name.endswith(_TAR)]
    owners: dict[str, tuple[Architecture, str | None]] = {}
    for rootfs in stems:
        if rootfs.endswith(f"-{carried.architecture}"):
            owners[rootfs] = (carried.architecture, None)
            for stem in stems:
                if stem.startswith(f"{rootfs}.") and stem.endswith(".device"):
                    name = stem.removeprefix(rootfs).removesuffix("device").strip(".") or "generic"
                    owners[stem] = (carried.architecture, f"{name}_{carried.architecture}")
    return owners
