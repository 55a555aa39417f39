"""The device tarball: kernel, initrd, modules and firmware, from a chroot of their own."""

from __future__ import annotations

import re
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from coreimage.architecture.facts import FACTS
from coreimage.architecture.grub import efi_argv
from coreimage.errors import BuildError
from coreimage.host.disk_space import explain_full_disk
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.http import Fetch
from coreimage.model import LOG, TAR_GZ, TEXT, Architecture, ArtifactRef, DeviceBuild
from coreimage.packages import dpkg_manifest
from coreimage.rootfs.chroot import make_chroot
from coreimage.rootfs.lock import read_lock
from coreimage.rootfs.rootfs_tarball import DPKG_STATUS
from coreimage.rootfs.spec import DeviceSpec
from coreimage.storage import Store, put_blob_bytes, put_blob_file
from coreimage.tarball import TarWriter, directory, gzip_writer, regular

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
    """Build the part of one device: the same bytes for the same spec and lock. The arguments are as for `build_rootfs`.

    Raises:
        BuildError: Packages do not install, or they bring not exactly one kernel.
        HostError: The disk is full, or programs of the architecture cannot be run here.
    """
    locked = read_lock(store, lock)
    with workspace("device", run=run) as folder:
        files = {"system.tar": spec.system_files}
        script = customize(spec.architecture)
        with (folder / "chroot.tar").open("wb") as tar:
            log = make_chroot(locked, folder, script, files, tar, store=store, fetch=fetch, run=run, on_line=on_line)
        with explain_full_disk("while packing the device's part"):
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
    """Return the script that makes the initrd and, where the device's packages bring GRUB for UEFI, the boot loader.

    Pure.
    """
    facts = FACTS[architecture]
    argv = shlex.join(efi_argv(architecture, f"/boot/{facts.efi_path}"))
    return _INITRD + _EFI.format(platform=facts.efi_grub.platform, argv=argv)


def pack(source: Path, target: Path, epoch: int, device: str, *, run: Run) -> str:
    """Write the device tarball: hardware.yaml, assets/, boot/ (if there is a boot loader) and system/.

    Args:
        source: The chroot as an uncompressed tar.
        target: Where the tarball is written.
        epoch: The time of what is not of the chroot, in UNIX seconds.
        device: What errors call the device.
        run: Runs pigz.

    Returns:
        The manifest of packages of the chroot.
    """
    with (
        tarfile.open(source, mode="r:") as tar,
        gzip_writer(target, run=run) as zipped,
        TarWriter(zipped, epoch=epoch) as out,
    ):
        members = {member.name.removeprefix("./"): member for member in tar}

        def add_new(entry: tarfile.TarInfo, content: bytes | IO[bytes] | None) -> None:
            entry.mtime = epoch
            out.add(entry, content)

        def add_from_chroot(name: str, prefix: str = "") -> None:
            member = members[name]
            out.add(member, tar.extractfile(member) if member.isreg() else None, prefix=prefix)

        add_new(regular("hardware.yaml", len(HARDWARE)), HARDWARE)
        add_new(directory("assets"), None)
        for asset in ("initrd.img", "vmlinuz"):
            names = sorted(name for name in members if name.startswith(f"boot/{asset}-"))
            if len(names) != 1:
                raise BuildError(
                    f"its packages bring {len(names)} files boot/{asset}-*, not one: {', '.join(names) or 'none'}",
                    where=f"device {device}",
                    resolution="name exactly one kernel package, such as linux-image-cloud-amd64, in the project file",
                )
            member = members[names[0]]
            add_new(regular(f"assets/{asset}", member.size), tar.extractfile(member))
        loaders = sorted(name for name in members if _BOOT.match(name))
        if loaders:
            add_new(directory("boot"), None)
        for name in loaders:
            add_from_chroot(name)
        for name in ("system", "system/usr", "system/usr/lib"):
            add_new(directory(name), None)
        for name in sorted(name for name in members if _SYSTEM.match(name)):
            add_from_chroot(name, prefix="system/")
        status = tar.extractfile(members[DPKG_STATUS])
        return dpkg_manifest(status.read().decode()) if status else ""
