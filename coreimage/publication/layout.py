"""The places of published builds in the store, and the names of their files. Pure.

docs/storage-layout.md describes the layout for users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from coreimage.errors import UsageError
from coreimage.model import Architecture, ArtifactRef, DeviceBuild, FileRole, PublishedBuild, PublishedFile, Value
from coreimage.project.config import Project, Word
from coreimage.publication.build_id import BuildId
from coreimage.publication.content import BuildContent
from coreimage.storage.checksums import CHECKSUMS, CHECKSUMS_SIGNATURE

BUILD_INFO = "build.json"
MARKED_GOOD = ".marked_good"
EVIDENCE = "evidence"
"""The folder of a build with the boot reports that were made after it was published."""
PINNED = "pinned.json"
"""The file in a build that somebody pinned."""
PAGE = "index.html"

SUFFIXES: Mapping[FileRole, str] = {
    "rootfs": ".tar.gz",
    "device": ".tar.gz",
    "custom": ".custom.tar.gz",
    "manifest": ".manifest",
    "filelist": ".filelist",
    "lock": ".lock.json",
    "log": ".log",
}
"""The end of the name of a file by its role, after the stem of its rootfs or device."""
TARBALLS: frozenset[FileRole] = frozenset({"rootfs", "device", "custom"})

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class BuildTree(Value):
    """The place in the store of all builds of one image type of a series. Prefixes end without `/`."""

    RESERVATIONS: ClassVar[str] = ".reservations"
    CONTENTS: ClassVar[str] = ".contents"

    project: Word
    series: Word
    image_type: Word

    @property
    def prefix(self) -> str:
        return f"cdimage/{self.project}/{self.series}/{self.image_type}"

    @property
    def pending_key(self) -> str:
        return f"{self.prefix}/pending.json"

    @property
    def current_key(self) -> str:
        return f"{self.prefix}/current.json"

    def reservation_key(self, build_id: BuildId) -> str:
        return f"{self.prefix}/{self.RESERVATIONS}/{build_id}.json"

    def content_key(self, content_sha256: str) -> str:
        return f"{self.prefix}/{self.CONTENTS}/{content_sha256}.json"

    def build_prefix(self, build_id: BuildId) -> str:
        return f"{self.prefix}/{build_id}"

    def evidence_key(self, build_id: BuildId, architecture: str) -> str:
        return f"{self.build_prefix(build_id)}/{EVIDENCE}/{architecture}.json"

    def key(self, build_id: BuildId, name: str) -> str:
        """Return the key of the file `name` of a build."""
        return f"{self.build_prefix(build_id)}/{name}"


def build_tree(project: Project, channel: str) -> BuildTree:
    """Return the tree of the published builds of a channel, which other channels may share.

    Raises:
        NotFoundError: The project has no such channel.
    """
    config = project.channel(channel)
    return BuildTree(project=project.config.project, series=config.series, image_type=config.image_type)


def tree_of(build: BuildContent | PublishedBuild) -> BuildTree:
    """Return the tree that a build is, or is to be, published in."""
    return BuildTree(project=build.project, series=build.series, image_type=build.image_type)


def copied_files(content: BuildContent) -> tuple[PublishedFile, ...]:
    """Return the artifacts of a build as files with their published names.

    Returns:
        Every file of the build except build.json, sorted by name; the artifacts are those of the build stage.

    Raises:
        UsageError: Two devices would share a name, or one has a name that cannot be a file's.
    """
    files: dict[str, PublishedFile] = {}

    def add(
        stem: str, artifacts: Mapping[FileRole, ArtifactRef], architecture: Architecture, device: str | None
    ) -> None:
        for role, artifact in artifacts.items():
            name = f"{stem}{SUFFIXES[role]}"
            if not _FILE_NAME.fullmatch(name):
                raise UsageError(
                    f"{name!r} cannot be a file's name", resolution="rename the device in the project file"
                )
            if name in files:
                raise UsageError(
                    f"two devices would be published as {name}", resolution="rename one of them in the project file"
                )
            files[name] = PublishedFile(
                name=name, role=role, architecture=architecture, device=device, artifact=artifact
            )

    for rootfs in content.rootfs:
        artifacts: dict[FileRole, ArtifactRef] = {"rootfs": rootfs.rootfs, "filelist": rootfs.filelist}
        artifacts |= {"manifest": rootfs.manifest, "lock": rootfs.lock, "log": rootfs.log}
        add(image_stem(content, rootfs.architecture), artifacts, rootfs.architecture, None)
    for device in content.devices:
        artifacts = {"device": device.tarball, "manifest": device.manifest, "lock": device.lock, "log": device.log}
        add(device_stem(content, device), artifacts, device.architecture, device.device)
    for custom in content.custom:
        add(image_stem(content, custom.architecture), {"custom": custom.tarball}, custom.architecture, None)
    return tuple(files[name] for name in sorted(files))


def image_stem(content: BuildContent, architecture: Architecture) -> str:
    """Return the stem of the file names of an architecture (system-image §5)."""
    return f"{content.codename}-preinstalled-{content.product}-{architecture}"


def device_stem(content: BuildContent, build: DeviceBuild) -> str:
    """Return the stem of the file names of a device: `….device` for generic_amd64, `….azure.device` for azure_amd64."""
    name = build.device.removesuffix(f"_{build.architecture}")
    part = "device" if name == "generic" else f"{name}.device"
    return f"{image_stem(content, build.architecture)}.{part}"


def is_listed(name: str) -> bool:
    """Return whether SHA256SUMS lists a file of a build: one that is written before SHA256SUMS and never changes."""
    written_later = {CHECKSUMS, CHECKSUMS_SIGNATURE, MARKED_GOOD, PINNED, PAGE}
    return name not in written_later and not name.startswith(f"{EVIDENCE}/")
