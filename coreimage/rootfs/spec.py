"""What a rootfs and a device tarball are made of, independent of the machine that builds them."""

from __future__ import annotations

import base64
import io
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeAlias

from coreimage.config import ArchiveConfig, ExtraArchiveConfig, Project, SeriesConfig, did_you_mean
from coreimage.errors import HostError, NotFoundError, UsageError
from coreimage.model import Architecture, ArtifactRef, Value
from coreimage.rootfs.sources import host_sources, keyring_paths, mirror_for
from coreimage.storage import Store, put_blob_bytes
from coreimage.tarball import TarWriter

_TAR = "application/x-tar"
_KEYRING = "application/pgp-keys"

DEVICE_PACKAGES = ("busybox", "e2fsprogs", "initramfs-tools", "kmod", "udev")
"""What the initrd is made with, besides the packages that a device names."""

TOOLS = (
    *("mmdebstrap", "apt", "apt-utils", "dpkg", "mount", "tar", "gzip", "pigz", "xz-utils", "zstd", "python3"),
    *("e2fsprogs", "libarchive-tools", "dosfstools", "mtools", "squashfs-tools", "grub-common"),
)
"""What makes chroots, tarballs, file systems and boot loaders. libarchive is what mke2fs reads tarballs with."""
TOOLS_OF: dict[Architecture, tuple[str, ...]] = {
    "amd64": ("grub-pc-bin", "grub-efi-amd64-bin"),
    "arm64": ("grub-efi-arm64-bin",),
}


class ArchiveSpec(Value):
    """Suites of one archive, its key as a binary OpenPGP keyring.

    `may_replace` has the packages of other archives that it may take the place of (`*`: any); None for the
    distribution's own archives, which may update each other.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    key: ArtifactRef
    pin_priority: int | None = None
    may_replace: tuple[str, ...] | None = None


class HookSpec(Value):
    name: str
    script: ArtifactRef


class RootfsSpec(Value):
    """`system_files` and `overlay` are tars laid over the packages, in this order, before the hooks run."""

    architecture: Architecture
    hostname: str
    archives: tuple[ArchiveSpec, ...]
    packages: tuple[str, ...]
    system_files: ArtifactRef
    overlay: ArtifactRef | None = None
    hooks: tuple[HookSpec, ...] = ()


class DeviceSpec(Value):
    """`system_files` is a tar of the initramfs configuration and scripts."""

    device: str
    architecture: Architecture
    archives: tuple[ArchiveSpec, ...]
    packages: tuple[str, ...]
    system_files: ArtifactRef


class ToolsSpec(Value):
    """`architecture` is that of the machine that the tools run on."""

    architecture: Architecture
    archives: tuple[ArchiveSpec, ...]
    packages: tuple[str, ...]


Spec: TypeAlias = RootfsSpec | DeviceSpec | ToolsSpec


def rootfs_spec(project: Project, channel: str, architecture: Architecture, *, store: Store) -> RootfsSpec:
    """Stores keys, overlay and hooks. Raises UsageError for files that are not there, HostError without a keyring."""
    series = _series(project, channel)
    overlay = series.rootfs.overlay
    return RootfsSpec(
        architecture=architecture,
        hostname=project.config.project,
        archives=_archives(project, series, store),
        packages=series.rootfs.packages,
        system_files=_installed_files("rootfs", store),
        overlay=_tree(project_folder(project, overlay, "overlay"), store) if overlay else None,
        hooks=tuple(
            HookSpec(name=hook, script=put_blob_bytes(store, _read(project, hook, "hook"), "text/x-shellscript"))
            for hook in series.rootfs.hooks
        ),
    )


def device_spec(project: Project, channel: str, device: str, *, store: Store) -> DeviceSpec:
    """Raises NotFoundError for a device that the project does not have, else as `rootfs_spec`."""
    found = project.config.devices.get(device)
    if found is None:
        raise NotFoundError(
            f"device {device!r} is not in project {project.config.project}"
            f"{did_you_mean(device, project.config.devices)}",
            resolution=f"known devices: {', '.join(project.config.devices)}",
        )
    return DeviceSpec(
        device=device,
        architecture=found.architecture,
        archives=_archives(project, _series(project, channel), store),
        packages=tuple(dict.fromkeys([*found.packages, *DEVICE_PACKAGES])),
        system_files=_installed_files("initramfs", store),
    )


def tools_spec(project: Project, architecture: Architecture, *, store: Store) -> ToolsSpec:
    """Raises UsageError for a key that is not there, HostError without a keyring."""
    tools = project.config.tools
    return ToolsSpec(
        architecture=architecture,
        archives=tuple(_archive(project, tools.distribution, archive, store) for archive in tools.archives),
        packages=(*TOOLS, *TOOLS_OF[architecture]),
    )


def _series(project: Project, channel: str) -> SeriesConfig:
    return project.config.series[project.channel(channel).series]


def _archives(project: Project, series: SeriesConfig, store: Store) -> tuple[ArchiveSpec, ...]:
    own = [_archive(project, series.distribution, archive, store) for archive in series.archives]
    return (*own, *(_extra_archive(project, archive, store) for archive in series.extra_archives))


def _archive(project: Project, distribution: str, archive: ArchiveConfig, store: Store) -> ArchiveSpec:
    uri = archive.uri or mirror_for(host_sources(), distribution, archive.suites[0])
    key = _read(project, archive.key, "key") if archive.key else _distribution_keyring(distribution)
    return ArchiveSpec(
        uri=uri.rstrip("/"),
        suites=archive.suites,
        components=archive.components,
        key=put_blob_bytes(store, binary_keyring(key), _KEYRING),
    )


def _extra_archive(project: Project, archive: ExtraArchiveConfig, store: Store) -> ArchiveSpec:
    key = binary_keyring(_read(project, archive.key, "key"))
    return ArchiveSpec(
        uri=archive.uri.rstrip("/"),
        suites=(archive.suite,),
        components=archive.components,
        key=put_blob_bytes(store, key, _KEYRING),
        pin_priority=archive.pin_priority,
        may_replace=archive.may_replace,
    )


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
    """A keyring as gpgv reads it: ASCII armour (RFC 9580 §6.2) taken off, every block of it."""
    if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" not in content:
        return content
    blocks = (
        content.decode("ascii", errors="replace").replace("\r\n", "\n").split("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    )
    return b"".join(_dearmour(block.partition("-----END PGP")[0]) for block in blocks[1:])


def _dearmour(block: str) -> bytes:
    body = block.partition("\n\n")[2]
    lines = [line for line in body.split("\n") if line and not line.startswith("=")]
    try:
        return base64.b64decode("".join(lines), validate=True)
    except ValueError as error:
        raise UsageError("the key file's ASCII armour is broken", resolution="export the key again") from error


def _installed_files(kind: str, store: Store) -> ArtifactRef:
    with as_file(files("coreimage") / "device" / "files" / kind) as folder:
        return _tree(folder, store)


def _tree(folder: Path, store: Store) -> ArtifactRef:
    file = io.BytesIO()
    with TarWriter(file, epoch=0) as tar:
        tar.add_tree(folder)
    return put_blob_bytes(store, file.getvalue(), _TAR)


def project_folder(project: Project, relative: str, what: str) -> Path:
    """Raises UsageError when it is not there."""
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
