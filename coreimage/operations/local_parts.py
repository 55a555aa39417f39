"""The parts of an image that are files of this machine, as `--rootfs-part` and `--device-part` name them.

A part may have the form of a build (a rootfs tarball as livecd-rootfs leaves it) or that of an image version
(everything below `system/`). A build's rootfs is customised as the importer does it.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import yaml

from coreimage.errors import BuildError, UsageError, VerificationError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.model import Server, Value
from coreimage.system_image import customise_rootfs, version_tarball
from coreimage.tarball import VERSION_ROOTS, decompressed

Kind = Literal["rootfs", "device"]
SERVER_PREFIXES: dict[Kind, tuple[str, ...]] = {"rootfs": ("ubuntu-", "rootfs-"), "device": ("device-",)}
"""The prefixes of the names of the files in an image version that a local part replaces."""
_SURE_ROOTS = set(VERSION_ROOTS) - {"boot"}
_ROOTFS_FOLDERS = {"bin", "etc", "lib", "sbin", "usr", "var"}
_KERNEL_LIMIT_BYTES = 256 << 20
_MODULES = re.compile(r"^system/(?:usr/)?lib/modules/([^/]+)(?:/|$)")
_VERSION_TEXT = re.compile(rb"Linux version (\S+) ")


class LocalPart(Value):
    """A tarball of this machine in the form of an image version; `record` describes it in the record of the image."""

    kind: Kind
    path: Path
    record: str


class Scanned(Value):
    """The facts that a scan of all parts of an image found."""

    newest: int
    """The newest mtime: seconds, UTC."""
    modules: tuple[str, ...]
    """The kernel releases that there are modules of, sorted."""
    kernel: str | None
    """The release of the kernel; None where it does not tell."""


def local_part(kind: Kind, path: Path, folder: Path) -> LocalPart:
    """Take a file of this machine as a part of an image.

    Args:
        kind: The kind of part.
        path: A tarball in the form of a build or of an image version.
        folder: The folder in which a build's rootfs is written in the form of an image version; it outlives the part.

    Raises:
        UsageError: The path is not of a regular file.
        VerificationError: The file is not a tarball of such a part.
    """
    if not path.is_file() or path.is_symlink():
        raise UsageError("is not a regular file", where=str(path), resolution=f"name the tarball of the {kind} part")
    with path.open("rb") as file:
        record = f"{path.name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if kind == "rootfs" and not is_imported(path):
        customised = folder / "rootfs.tar"
        with customised.open("wb") as target:
            customise_rootfs(path, target)
        return LocalPart(kind=kind, path=customised, record=record)
    if not is_imported(path):
        raise VerificationError(
            "is no device part: its files are in none of " + ", ".join(VERSION_ROOTS),
            where=str(path),
            resolution="name the …device.tar.gz of a build",
        )
    return LocalPart(kind=kind, path=path, record=record)


def is_imported(path: Path) -> bool:
    """Return whether a tarball has the form of an image version, by its first member that shows it.

    Raises:
        VerificationError: The file is no tarball, or has no rootfs or device part.
    """
    for member, _ in _members(path, run_process):
        root = member.name.removeprefix("./").split("/")[0]
        if root in _SURE_ROOTS:
            return True
        if root in _ROOTFS_FOLDERS:
            return False
    raise VerificationError("is neither a rootfs nor a device part", where=str(path), resolution="name another tarball")


def version_part(
    channel: str, device: str, version: int, parts: Mapping[str, str], *, folder: Path, epoch: int
) -> Path:
    """Write the tarball that tells the image its channel and version, as the importer does for a published one.

    Args:
        channel: The whole name of the channel.
        device: A device of the channel.
        version: What the image calls itself.
        parts: What `version_detail` says: a name for each role.
        folder: Where the tarball is written.
        epoch: The mtime of its members: seconds, UTC.
    """
    detail = ",".join([*(f"{role}={name}" for role, name in parts.items()), f"version={version}"])
    target = folder / f"version-{version}.tar.xz"
    target.write_bytes(version_tarball(channel, device, version, detail, server=Server(), mtime=epoch))
    return target


def scan(parts: Sequence[Path], *, run: Run) -> Scanned:
    """Read all members of the parts once, in their order.

    Raises:
        VerificationError: One of them is no tarball.
    """
    newest, modules = 1, set[str]()
    hardware: dict[str, object] = {}
    kernels: dict[str, bytes] = {}
    for part in parts:
        for member, content in _members(part, run):
            newest = max(newest, int(member.mtime))
            if match := _MODULES.match(member.name):
                modules.add(match[1])
            if member.name == "hardware.yaml":
                hardware = yaml.safe_load(content) or {}
            elif content:
                kernels[member.name] = content
    kernel = kernels.get(str(hardware.get("kernel", "")))
    return Scanned(newest=newest, modules=tuple(sorted(modules)), kernel=kernel_release(kernel) if kernel else None)


def check_modules(scanned: Scanned, where: str) -> None:
    """Refuse a kernel without its modules: kernel and modules of two builds do not fit each other.

    Raises:
        BuildError: The parts, which `where` names, have a kernel and modules of other releases.
    """
    if scanned.kernel and scanned.kernel not in scanned.modules:
        releases = ", ".join(scanned.modules) or "none"
        raise BuildError(
            f"the kernel is {scanned.kernel}, and the modules are of {releases}",
            where=where,
            resolution="take kernel and modules from one build: name its device part",
        )


def kernel_release(kernel: bytes) -> str | None:
    """Return what `uname -r` will say of a kernel; None for one that does not tell.

    An x86 kernel names the place of its version in its header (Documentation/arch/x86/boot.rst, `kernel_version`).
    """
    if kernel[0x202:0x206] == b"HdrS":
        start = int.from_bytes(kernel[0x20E:0x210], "little") + 0x200
        return kernel[start : start + 200].split(b"\0")[0].split(b" ")[0].decode(errors="replace") or None
    if kernel.startswith(b"\x1f\x8b"):
        try:
            kernel = zlib.decompressobj(wbits=31).decompress(kernel, _KERNEL_LIMIT_BYTES)
        except zlib.error:
            return None
    match = _VERSION_TEXT.search(kernel)
    return match[1].decode(errors="replace") if match else None


def _members(path: Path, run: Run) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield every member, with the content of hardware.yaml and of files in assets/ that could be a kernel."""
    try:
        with decompressed(path, run=run) as plain, tarfile.open(fileobj=plain, mode="r|*") as tar:
            for member in tar:
                wanted = member.name == "hardware.yaml" or member.name.startswith("assets/vmlinuz")
                file = tar.extractfile(member) if wanted and member.size < _KERNEL_LIMIT_BYTES else None
                yield member, file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise VerificationError(
            f"is not a tarball: {error}", where=str(path), resolution="name a tar.gz, tar.xz or tar.zst"
        ) from error
