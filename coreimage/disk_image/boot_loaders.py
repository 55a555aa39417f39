"""Boot loaders: images and environment of GRUB, scripts and environment of U-Boot.

GRUB is installed without grub-install: grub-mkimage makes its images, which are embedded where grub-bios-setup would
put them. Which files go on the boot partition is in `boot_files`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from coreimage.architecture.facts import FACTS, Grub
from coreimage.architecture.grub import FOLDER as GRUB_FOLDER
from coreimage.architecture.grub import bios_argv, efi_argv
from coreimage.disk_image.gadget.structure import BOOT_CODE_BYTES, SECTOR_BYTES, Bootloader
from coreimage.disk_image.layout import Partition
from coreimage.errors import BuildError, HostError
from coreimage.host.process import Run
from coreimage.model import Architecture

FOLDERS: dict[Bootloader, str] = {"grub": GRUB_FOLDER, "u-boot": ""}
"""Where a boot loader has a/, b/ and the state of the slots: below the root of the boot partition."""
INITIAL_STATE = {"slot": "a", "trial": "", "tries": "0", "failed": ""}
"""The variables of a new disk, by which boot loader and updater agree on the slot to start."""

GRUB_ENVIRONMENT = "grubenv"
_GRUB_ENVIRONMENT_BYTES = 1024
_GRUB_ENVIRONMENT_HEADER = b"# GRUB Environment Block\n"
_KERNEL_SECTOR_OFFSET = 0x5C
"""In boot.img: 64-bit sector of core.img (GRUB_BOOT_MACHINE_KERNEL_SECTOR)."""
_BLOCKLIST_OFFSET = 500
"""In core.img's first sector: 64-bit sector of its second one."""
_GRUB_LIBRARY = Path("/usr/lib/grub")
"""Where the programs that `run` starts find theirs, so it is looked at through `run` only."""

UBOOT_ENVIRONMENT = "coreimage.env"
"""On the boot partition, for U-Boot's `env import -t` and `env export -t`."""
SCRIPT_SOURCE_SUFFIX, SCRIPT_SUFFIX = ".cmd", ".scr"
_UBOOT_HEADER = struct.Struct(">7I4B32s")
_UBOOT_MAGIC = 0x27051956
_LINUX, _SCRIPT, _PLAIN = 5, 6, 0
"""U-Boot, include/image.h: IH_MAGIC, IH_OS_LINUX, IH_TYPE_SCRIPT, IH_COMP_NONE."""


def grub_environment(variables: Mapping[str, str]) -> bytes:
    """Return GRUB's environment block, which is 1024 bytes long, with these variables."""
    lines = b"".join(f"{name}={value}\n".encode() for name, value in variables.items())
    return (_GRUB_ENVIRONMENT_HEADER + lines).ljust(_GRUB_ENVIRONMENT_BYTES, b"#")


def make_efi_grub(architecture: Architecture, target: Path, epoch: int, *, run: Run) -> Path:
    """Make a GRUB for UEFI of the modules that `run` has, for a device whose tarball brings none.

    Raises:
        HostError: There are no modules for the architecture.
    """
    grub = FACTS[architecture].efi_grub
    _make_grub(grub, efi_argv(architecture, str(target)), epoch, run=run)
    return target


def embed_bios_grub(
    image: Path, grub: Grub, bios_boot: Partition, boot_partition: int, epoch: int, *, work: Path, run: Run
) -> None:
    """Write a GRUB for BIOS into a disk image that has its partition table: sector 0, and the BIOS boot partition.

    Args:
        image: The disk image, changed in place.
        grub: GRUB's platform.
        bios_boot: The partition for core.img.
        boot_partition: Number of the partition that has GRUB's folder.
        epoch: SOURCE_DATE_EPOCH.
        work: A folder for files on the way.
        run: Starts programs.

    Raises:
        HostError: There are no modules for the platform.
        BuildError: core.img does not fit into its partition.
    """
    core_image, boot_image = work / "core.img", work / "boot.img"
    _make_grub(grub, bios_argv(grub.platform, boot_partition, str(core_image)), epoch, run=run)
    core = bytearray(core_image.read_bytes())
    if len(core) > bios_boot.size_bytes:
        raise BuildError(
            f"GRUB's core.img has {len(core)} bytes and its partition {bios_boot.size_bytes}",
            where=f"structure {bios_boot.structure.name}",
            resolution="make the structure larger in meta/gadget.yaml",
        )
    struct.pack_into("<Q", core, _BLOCKLIST_OFFSET, bios_boot.first + 1)
    run(["cp", _GRUB_LIBRARY / grub.platform / "boot.img", boot_image])
    boot = bytearray(boot_image.read_bytes()[:BOOT_CODE_BYTES])
    struct.pack_into("<Q", boot, _KERNEL_SECTOR_OFFSET, bios_boot.first)
    with image.open("r+b") as file:
        file.write(boot)
        file.seek(bios_boot.first * SECTOR_BYTES)
        file.write(core)


def _make_grub(grub: Grub, argv: list[str], epoch: int, *, run: Run) -> None:
    modules = _GRUB_LIBRARY / grub.platform
    if run(["test", "-d", modules], accept=(0, 1)).status:
        raise HostError(
            f"there is no GRUB for {grub.platform}",
            where=str(modules),
            resolution=f"install {grub.package}; GRUB for UEFI may also come with the device: then put the package "
            "among the device's packages in the project file",
        )
    run(argv, env={"SOURCE_DATE_EPOCH": str(epoch)})


def uboot_script(text: bytes, architecture: Architecture, epoch: int) -> bytes:
    """Return a script in the form that U-Boot's `source` runs: what `mkimage -T script` makes of its text."""
    body = struct.pack(">II", len(text), 0) + text
    fields = [epoch, len(body), 0, 0, zlib.crc32(body)]
    kinds = [_LINUX, FACTS[architecture].uboot_number, _SCRIPT, _PLAIN, b"coreimage"]
    blank = _UBOOT_HEADER.pack(_UBOOT_MAGIC, 0, *fields, *kinds)
    return _UBOOT_HEADER.pack(_UBOOT_MAGIC, zlib.crc32(blank), *fields, *kinds) + body


def uboot_environment(variables: Mapping[str, str]) -> bytes:
    """Return U-Boot's text environment. Empty variables are left out: it cannot hold any."""
    return "".join(f"{name}={value}\n" for name, value in variables.items() if value).encode()
