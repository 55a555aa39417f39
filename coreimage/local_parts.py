"""Parts of an image that come from this machine instead of a server: what `--rootfs-part` and `--device-part` name.

Either form is taken: that of a build (a rootfs tarball as livecd-rootfs leaves it, without a prefix) and that of an
image version (everything below `system/`). A build's rootfs goes through what the importer does to it.
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

from coreimage.disk_image.payload import ROOTS
from coreimage.errors import BuildError, UsageError, VerificationError
from coreimage.model import Server, Value
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.system_image import customise_rootfs, version_tarball
from coreimage.tarball import decompressed

Kind = Literal["rootfs", "device"]
SERVER_PREFIXES: dict[Kind, tuple[str, ...]] = {"rootfs": ("ubuntu-", "rootfs-"), "device": ("device-",)}
"""How the files of an image version begin that a local part takes the place of (by role, never by where they lie)."""
_SURE_ROOTS = set(ROOTS) - {"boot"}
_ROOTFS_FOLDERS = {"bin", "etc", "lib", "sbin", "usr", "var"}
_KERNEL_LIMIT_BYTES = 256 << 20
_MODULES = re.compile(r"^system/(?:usr/)?lib/modules/([^/]+)(?:/|$)")
_VERSION_TEXT = re.compile(rb"Linux version (\S+) ")


class LocalPart(Value):
    """A file of this machine in the form of an image version. `said` is what the image's own record says of it."""

    kind: Kind
    path: Path
    said: str


class Scanned(Value):
    """What all parts of an image amount to: `newest` is in seconds; `kernel` is its release, if it says so."""

    newest: int
    modules: tuple[str, ...]
    kernel: str | None


def local_part(kind: Kind, path: Path, folder: Path) -> LocalPart:
    """Raises UsageError for what is no regular file, VerificationError for what is no tarball of such a part."""
    if not path.is_file() or path.is_symlink():
        raise UsageError("is not a regular file", where=str(path), resolution=f"name the tarball of the {kind} part")
    with path.open("rb") as file:
        said = f"{path.name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if kind == "rootfs" and not is_imported(path):
        made = folder / "rootfs.tar"
        with made.open("wb") as target:
            customise_rootfs(path, target)
        return LocalPart(kind=kind, path=made, said=said)
    if not is_imported(path):
        raise VerificationError(
            "is no device part: its files are in none of " + ", ".join(ROOTS),
            where=str(path),
            resolution="name the …device.tar.gz of a build",
        )
    return LocalPart(kind=kind, path=path, said=said)


def is_imported(path: Path) -> bool:
    """Whether a tarball is in the form of an image version, told by its first member that says so."""
    for name in _names(path):
        root = name.removeprefix("./").split("/")[0]
        if root in _SURE_ROOTS:
            return True
        if root in _ROOTFS_FOLDERS:
            return False
    raise VerificationError("is neither a rootfs nor a device part", where=str(path), resolution="name another tarball")


def version_part(
    channel: str, device: str, version: int, parts: Mapping[str, str], *, folder: Path, epoch: int
) -> Path:
    """What tells the image its channel and version, as the importer writes it for a published one."""
    detail = ",".join([*(f"{role}={name}" for role, name in parts.items()), f"version={version}"])
    target = folder / f"version-{version}.tar.xz"
    target.write_bytes(version_tarball(channel, device, version, detail, server=Server(), mtime=epoch))
    return target


def scan(parts: Sequence[Path], *, run: Run) -> Scanned:
    """Reads all members of the parts once. Raises VerificationError for what is no tarball."""
    newest, modules = 1, set[str]()
    hardware: dict[str, object] = {}
    kernels: dict[str, bytes] = {}
    for part in parts:
        for member, content in _members(part, run):
            newest = max(newest, int(member.mtime))
            if found := _MODULES.match(member.name):
                modules.add(found[1])
            if member.name == "hardware.yaml":
                hardware = yaml.safe_load(content) or {}
            elif content:
                kernels[member.name] = content
    kernel = kernels.get(str(hardware.get("kernel", "")))
    return Scanned(newest=newest, modules=tuple(sorted(modules)), kernel=kernel_release(kernel) if kernel else None)


def check_modules(scanned: Scanned, where: str) -> None:
    """Raises BuildError when the kernel has no modules: kernel and modules of two builds do not fit each other."""
    if scanned.kernel and scanned.kernel not in scanned.modules:
        there = ", ".join(scanned.modules) or "none"
        raise BuildError(
            f"the kernel is {scanned.kernel}, and the modules are of {there}",
            where=where,
            resolution="take kernel and modules from one build: name its device part",
        )


def kernel_release(kernel: bytes) -> str | None:
    """What `uname -r` will say; None for a kernel that does not tell.

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
    found = _VERSION_TEXT.search(kernel)
    return found[1].decode(errors="replace") if found else None


def _names(path: Path) -> Iterator[str]:
    for member, _ in _members(path, run_process):
        yield member.name


def _members(path: Path, run: Run) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Every member, with the content of hardware.yaml and of files in assets/ that could be a kernel."""
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
