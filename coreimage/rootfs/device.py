"""The device tarball: kernel, initrd, modules and firmware, from a chroot of their own."""

from __future__ import annotations

import re
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path

from coreimage.boot_loader import EFI_FILES, efi_argv
from coreimage.errors import BuildError
from coreimage.full_disk import telling_full_disk
from coreimage.http import Fetch
from coreimage.model import LOG, TAR_GZ, TEXT, Architecture, ArtifactRef, DeviceBuild
from coreimage.process import Run
from coreimage.rootfs.build import STATUS, manifest_of
from coreimage.rootfs.chroot import make_chroot
from coreimage.rootfs.lock import read_lock
from coreimage.rootfs.spec import DeviceSpec
from coreimage.storage import Store, put_blob_bytes, put_blob_file
from coreimage.tarball import TarWriter, directory, gzip_writer, regular
from coreimage.workspace import workspace

HARDWARE = b"""kernel: assets/vmlinuz
initrd: assets/initrd.img
partition-layout: system-AB
bootloader: grub
"""
"""Read by flash and by the updater (device-flash, `HardwareDescription`; livecd-rootfs wrote the same keys in 2015)."""

_INITRD = """
tar --extract --touch --keep-directory-symlink --no-overwrite-dir --directory "$1" --file "$FILES/system.tar"
for modules in "$1"/usr/lib/modules/*; do
    chroot "$1" update-initramfs -c -k "${modules##*/}" >&2
done
for initrd in "$1"/boot/initrd.img-*; do
    if gzip -tq "$initrd" 2> /dev/null; then
        gzip -dc "$initrd" > "$1/boot/plain"
        mv "$1/boot/plain" "$initrd"
    fi
done
"""
"""The kernel takes an initrd that is not compressed, and payloads and deltas are smaller so: what is in it is
compressed once, as a whole, and a delta knows its files from the system's. One behind an archive of microcode stays."""

_EFI = """
if [ -d "$1/usr/lib/grub/{platform}" ]; then
    mkdir -p "$1/boot/EFI/BOOT"
    chroot "$1" {argv} >&2
fi
"""

_SYSTEM = re.compile(r"usr/lib/(modules|firmware)(/|$)")
_BOOT = re.compile(r"boot/EFI(/|$)")


def build_device(
    spec: DeviceSpec,
    lock: ArtifactRef,
    *,
    store: Store,
    fetch: Fetch,
    run: Run,
    on_line: Callable[[str], None] | None = None,
) -> DeviceBuild:
    """The same bytes for the same spec and lock. Raises BuildError unless there is exactly one kernel."""
    locked = read_lock(store, lock)
    with workspace("device", run=run) as folder:
        files = {"system.tar": spec.system_files}
        script = customize(spec.architecture)
        with (folder / "chroot.tar").open("wb") as tar:
            log = make_chroot(locked, folder, script, files, tar, store=store, fetch=fetch, run=run, on_line=on_line)
        with telling_full_disk("while packing the device's part"):
            manifest = pack(folder / "chroot.tar", folder / "device.tar.gz", locked.epoch, spec.device, run=run)
        return DeviceBuild(
            device=spec.device,
            architecture=spec.architecture,
            tarball=put_blob_file(store, folder / "device.tar.gz", TAR_GZ),
            manifest=put_blob_bytes(store, manifest.encode(), TEXT),
            lock=lock,
            log=put_blob_bytes(store, log.encode(), LOG),
        )


def customize(architecture: Architecture) -> str:
    """Pure: makes the initrd and, where the device's packages bring GRUB for UEFI, the boot loader."""
    platform, name = EFI_FILES[architecture]
    return _INITRD + _EFI.format(platform=platform, argv=shlex.join(efi_argv(architecture, f"/boot/{name}")))


def pack(source: Path, target: Path, epoch: int, device: str, *, run: Run) -> str:
    """Writes hardware.yaml, assets/, boot/ (if any) and system/; gives the manifest of the chroot they come from."""
    with (
        tarfile.open(source, mode="r:") as tar,
        gzip_writer(target, run=run) as zipped,
        TarWriter(zipped, epoch=epoch) as out,
    ):
        members = {member.name.removeprefix("./"): member for member in tar}
        _add(out, tar, regular("hardware.yaml", len(HARDWARE)), HARDWARE, epoch)
        _add(out, tar, directory("assets"), None, epoch)
        for asset, stem in (("initrd.img", "initrd.img-"), ("vmlinuz", "vmlinuz-")):
            member = members[_only(members, f"boot/{stem}", device)]
            _add(out, tar, regular(f"assets/{asset}", member.size), member, epoch)
        loaders = sorted(name for name in members if _BOOT.match(name))
        if loaders:
            _add(out, tar, directory("boot"), None, epoch)
        for name in loaders:
            out.add(members[name], tar.extractfile(members[name]) if members[name].isreg() else None)
        for name in ("system", "system/usr", "system/usr/lib"):
            _add(out, tar, directory(name), None, epoch)
        for name in sorted(name for name in members if _SYSTEM.match(name)):
            content = tar.extractfile(members[name]) if members[name].isreg() else None
            out.add(members[name], content, prefix="system/")
        status = tar.extractfile(members[STATUS])
        return manifest_of(status.read().decode()) if status else ""


def _add(
    out: TarWriter, tar: tarfile.TarFile, entry: tarfile.TarInfo, content: bytes | tarfile.TarInfo | None, epoch: int
) -> None:
    entry.mtime = epoch
    out.add(entry, tar.extractfile(content) if isinstance(content, tarfile.TarInfo) else content)


def _only(members: dict[str, tarfile.TarInfo], stem: str, device: str) -> str:
    found = sorted(name for name in members if name.startswith(stem))
    if len(found) != 1:
        raise BuildError(
            f"its packages bring {len(found)} files {stem}*: {', '.join(found) or 'none'}; one is needed",
            where=f"device {device}",
            resolution="name exactly one kernel package, such as linux-image-cloud-amd64, in the project file",
        )
    return found[0]
