"""Where published builds live and what their files are called. Pure; docs/storage-layout.md is the description."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import ClassVar

from coreimage.config import Word
from coreimage.errors import UsageError
from coreimage.model import (
    JSON,
    LOG,
    TAR_GZ,
    TEXT,
    ArtifactRef,
    CustomBuild,
    DeviceBuild,
    PublishedFile,
    RootfsBuild,
    Value,
)
from coreimage.publication.build_id import BuildId
from coreimage.publication.content import BuildContent

BUILD_INFO = "build.json"
CHECKSUMS = "SHA256SUMS"
"""Written last: a build without it does not exist for readers."""
SIGNATURE = "SHA256SUMS.gpg"
MARKED_GOOD = ".marked_good"
EVIDENCE = "evidence"
"""The folder of a build for what was found out about it later."""
PINNED = "pinned.json"
"""In a build that somebody wants to stay."""
PAGE = "index.html"

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_MEDIA_TYPES = {".gz": TAR_GZ, ".json": JSON, ".manifest": TEXT, ".filelist": TEXT, ".log": LOG}


class BuildTree(Value):
    """All builds of one image type of a series. Keys end without `/`."""

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

    def evidence_key(self, build_id: BuildId, architecture: str) -> str:
        return f"{self.build_prefix(build_id)}/{EVIDENCE}/{architecture}.json"

    def build_prefix(self, build_id: BuildId) -> str:
        return f"{self.prefix}/{build_id}"

    def key(self, build_id: BuildId, name: str) -> str:
        return f"{self.build_prefix(build_id)}/{name}"


def tree_of(content: BuildContent) -> BuildTree:
    return BuildTree(project=content.project, series=content.series, image_type=content.image_type)


def copied_files(content: BuildContent) -> tuple[PublishedFile, ...]:
    """The artifacts of a build under their published names, sorted by name.

    Raises UsageError when two devices would share a name, or one has a name that cannot be a file's.
    """
    files: dict[str, ArtifactRef] = {}
    for build in content.rootfs:
        _add(files, rootfs_names(content.codename, content.product, build))
    for device in content.devices:
        _add(files, device_names(content.codename, content.product, device))
    for custom in content.custom:
        _add(files, {custom_name(content.codename, content.product, custom): custom.tarball})
    return tuple(PublishedFile(name=name, artifact=files[name]) for name in sorted(files))


def rootfs_names(codename: str, product: str, build: RootfsBuild) -> dict[str, ArtifactRef]:
    stem = image_stem(codename, product, build.architecture)
    return {
        f"{stem}.tar.gz": build.rootfs,
        f"{stem}.manifest": build.manifest,
        f"{stem}.filelist": build.filelist,
        f"{stem}.lock.json": build.lock,
        f"{stem}.log": build.log,
    }


def device_names(codename: str, product: str, build: DeviceBuild) -> dict[str, ArtifactRef]:
    stem = device_stem(codename, product, build)
    return {
        f"{stem}.tar.gz": build.tarball,
        f"{stem}.manifest": build.manifest,
        f"{stem}.lock.json": build.lock,
        f"{stem}.log": build.log,
    }


def custom_name(codename: str, product: str, build: CustomBuild) -> str:
    return f"{image_stem(codename, product, build.architecture)}.custom.tar.gz"


def image_stem(codename: str, product: str, architecture: str) -> str:
    return f"{codename}-preinstalled-{product}-{architecture}"


def device_stem(codename: str, product: str, build: DeviceBuild) -> str:
    """`generic_amd64` is `…-amd64.device`, `azure_amd64` is `…-amd64.azure.device`."""
    name = build.device.removesuffix(f"_{build.architecture}")
    part = "device" if name == "generic" else f"{name}.device"
    return f"{image_stem(codename, product, build.architecture)}.{part}"


def is_listed(name: str) -> bool:
    """Whether SHA256SUMS has a line for this file of a build: for all that is there before it, and never changes."""
    return name not in {CHECKSUMS, SIGNATURE, MARKED_GOOD, PINNED, PAGE} and not name.startswith(f"{EVIDENCE}/")


def is_for(name: str, architecture: str) -> bool:
    """Whether a file of a build belongs to this architecture."""
    return f"-{architecture}." in name


def media_type(name: str) -> str:
    return _MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")


def _add(files: dict[str, ArtifactRef], named: dict[str, ArtifactRef]) -> None:
    for name, artifact in named.items():
        if not _FILE_NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be a file's name", resolution="rename the device in the project file")
        if name in files:
            raise UsageError(f"two builds would be published as {name}", resolution="rename one of the devices")
        files[name] = artifact
