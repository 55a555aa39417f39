"""Specs: what a rootfs, a device tarball and the tools are made of, independent of the machine that builds them.

Keys, overlays and hooks of the project are in the store when a spec is made.
"""

from __future__ import annotations

import base64
import io
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeAlias

from coreimage.architecture.facts import FACTS
from coreimage.errors import HostError, NotFoundError, UsageError, did_you_mean
from coreimage.model import Architecture, ArtifactRef, Value
from coreimage.project.config import ArchiveConfig, Project, SeriesConfig
from coreimage.rootfs.apt_sources import host_sources, keyring_paths, mirror_for
from coreimage.storage import Store, put_blob_bytes
from coreimage.tarball import TarWriter

DEVICE_PACKAGES = ("busybox", "e2fsprogs", "initramfs-tools", "kmod", "udev")
"""What the initrd is made with, besides the packages that a device names."""

TOOLS = (
    *("mmdebstrap", "apt", "apt-utils", "dpkg", "mount", "tar", "gzip", "pigz", "xz-utils", "zstd", "python3"),
    *("e2fsprogs", "libarchive-tools", "dosfstools", "mtools", "squashfs-tools", "grub-common"),
)
"""What makes chroots, tarballs, file systems and boot loaders. libarchive is what mke2fs reads tarballs with."""


def tools_of(architecture: Architecture) -> tuple[str, ...]:
    """Return the packages of the tools tree for a machine of this architecture."""
    return (*TOOLS, *(grub.package for grub in FACTS[architecture].grubs))


class ArchiveSpec(Value):
    """Suites of one archive."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    key: ArtifactRef
    """A binary OpenPGP keyring."""
    pin_priority: int | None = None
    may_replace: tuple[str, ...] | None = None
    """The packages of other archives that it may replace (`*`: any); None for the distribution's own archives, which
    may update each other."""


class HookSpec(Value):
    """A script that runs in the rootfs; `name` is what the project file calls it."""

    name: str
    script: ArtifactRef


class RootfsSpec(Value):
    """What the rootfs of one architecture is made of.

    `system_files` and `overlay` are tars laid over the packages, in this order, before the hooks run.
    """

    architecture: Architecture
    hostname: str
    archives: tuple[ArchiveSpec, ...]
    packages: tuple[str, ...]
    system_files: ArtifactRef
    overlay: ArtifactRef | None = None
    hooks: tuple[HookSpec, ...] = ()


class DeviceSpec(Value):
    """What the tarball of one device is made of; `system_files` is a tar of initramfs configuration and scripts."""

    device: str
    architecture: Architecture
    archives: tuple[ArchiveSpec, ...]
    packages: tuple[str, ...]
    system_files: ArtifactRef


class ToolsSpec(Value):
    """What the tools tree is made of; `architecture` is that of the machine that the tools run on."""

    architecture: Architecture
    archives: tuple[ArchiveSpec, ...]
    packages: tuple[str, ...]


Spec: TypeAlias = RootfsSpec | DeviceSpec | ToolsSpec
"""What packages are planned for."""


def rootfs_spec(project: Project, channel: str, architecture: Architecture, *, store: Store) -> RootfsSpec:
    """Say what the rootfs of a channel is made of, and store its keys, overlay and hooks.

    Raises:
        NotFoundError: The project has no such channel.
        UsageError: Something that the project file names is not there, or no mirror is known.
        HostError: The distribution's keyring is not installed.
    """
    series = project.config.series[project.channel(channel).series]
    overlay = series.rootfs.overlay
    return RootfsSpec(
        architecture=architecture,
        hostname=project.config.project,
        archives=_archives(project, series, store),
        packages=series.rootfs.packages,
        system_files=_stored_device_files("rootfs", store),
        overlay=_stored_folder(project_folder(project, overlay, "overlay"), store) if overlay else None,
        hooks=tuple(
            HookSpec(name=hook, script=put_blob_bytes(store, _read(project, hook, "hook"), "text/x-shellscript"))
            for hook in series.rootfs.hooks
        ),
    )


def device_spec(project: Project, channel: str, device: str, *, store: Store) -> DeviceSpec:
    """Say what a device's tarball is made of. Raises NotFoundError for an unknown device, else as `rootfs_spec`."""
    config = project.config.devices.get(device)
    if config is None:
        raise NotFoundError(
            f"device {device!r} is not in project {project.config.project}"
            f"{did_you_mean(device, project.config.devices)}",
            resolution=f"known devices: {', '.join(project.config.devices)}",
        )
    return DeviceSpec(
        device=device,
        architecture=config.architecture,
        archives=_archives(project, project.config.series[project.channel(channel).series], store),
        packages=tuple(dict.fromkeys([*config.packages, *DEVICE_PACKAGES])),
        system_files=_stored_device_files("initramfs", store),
    )


def tools_spec(project: Project, architecture: Architecture, *, store: Store) -> ToolsSpec:
    """Say what the tools for machines of an architecture are made of. Raises as `rootfs_spec`."""
    tools = project.config.tools
    return ToolsSpec(
        architecture=architecture,
        archives=tuple(_archive(project, tools.distribution, archive, store) for archive in tools.archives),
        packages=tools_of(architecture),
    )


def _archives(project: Project, series: SeriesConfig, store: Store) -> tuple[ArchiveSpec, ...]:
    own = [_archive(project, series.distribution, archive, store) for archive in series.archives]
    extra = [
        ArchiveSpec(
            uri=archive.uri.rstrip("/"),
            suites=(archive.suite,),
            components=archive.components,
            key=_stored_key(_read(project, archive.key, "key"), store),
            pin_priority=archive.pin_priority,
            may_replace=archive.may_replace,
        )
        for archive in series.extra_archives
    ]
    return (*own, *extra)


def _archive(project: Project, distribution: str, archive: ArchiveConfig, store: Store) -> ArchiveSpec:
    uri = archive.uri or mirror_for(host_sources(), distribution, archive.suites[0])
    key = _read(project, archive.key, "key") if archive.key else _distribution_keyring(distribution)
    return ArchiveSpec(
        uri=uri.rstrip("/"),
        suites=archive.suites,
        components=archive.components,
        key=_stored_key(key, store),
    )


def _stored_key(keyring: bytes, store: Store) -> ArtifactRef:
    return put_blob_bytes(store, binary_keyring(keyring), "application/pgp-keys")


def _distribution_keyring(distribution: str) -> bytes:
    paths = keyring_paths(distribution)
    for path in paths:
        if path.is_file():
            return path.read_bytes()
    raise HostError(
        f"the keyring of {distribution} is not installed",
        where=str(paths[-1]),
        resolution=f"install {distribution}-archive-keyring, or give the archive a `key` in the project file",
    )


def binary_keyring(content: bytes) -> bytes:
    """Return a keyring as gpgv reads it: every block of ASCII armour (RFC 9580 §6.2) is decoded.

    Raises:
        UsageError: The armour is broken.
    """
    begin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
    if begin.encode() not in content:
        return content
    keys = []
    for block in content.decode("ascii", errors="replace").replace("\r\n", "\n").split(begin)[1:]:
        body = block.partition("-----END PGP")[0].partition("\n\n")[2]
        lines = [line for line in body.split("\n") if line and not line.startswith("=")]
        try:
            keys.append(base64.b64decode("".join(lines), validate=True))
        except ValueError as error:
            raise UsageError("the key file's ASCII armour is broken", resolution="export the key again") from error
    return b"".join(keys)


def _stored_device_files(kind: str, store: Store) -> ArtifactRef:
    """The files of `coreimage/device/files/<kind>`, which go into every image."""
    with as_file(files("coreimage") / "device" / "files" / kind) as folder:
        return _stored_folder(folder, store)


def _stored_folder(folder: Path, store: Store) -> ArtifactRef:
    file = io.BytesIO()
    with TarWriter(file, epoch=0) as tar:
        tar.add_tree(folder)
    return put_blob_bytes(store, file.getvalue(), "application/x-tar")


def project_folder(project: Project, relative: str, what: str) -> Path:
    """Return where a folder of the project is. Raises UsageError, which says `what` it is to be, if it is no folder."""
    path = project.path(relative)
    if not path.is_dir():
        raise UsageError(f"the {what} is no folder", where=str(path), resolution="mend its path in the project file")
    return path


def _read(project: Project, relative: str, what: str) -> bytes:
    path = project.path(relative)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the {what}: {error.strerror}", where=str(path), resolution="mend its path in the project file"
        ) from error
