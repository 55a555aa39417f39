"""GRUB without grub-install: images made by grub-mkimage, embedded where grub-bios-setup would put them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from coreimage.boot_loader import EFI_FILES, FOLDER, MODULES, efi_argv, mkimage_argv
from coreimage.disk_image.layout import SECTOR_BYTES, Partition
from coreimage.errors import BuildError, HostError
from coreimage.model import Architecture
from coreimage.process import Run

GRUBENV_BYTES = 1024
_GRUBENV_HEADER = b"# GRUB Environment Block\n"
_BOOT_CODE_BYTES = 440
_KERNEL_SECTOR_OFFSET = 0x5C
"""In boot.img: 64-bit sector of core.img (GRUB_BOOT_MACHINE_KERNEL_SECTOR)."""
_BLOCKLIST_OFFSET = 500
"""In core.img's first sector: 64-bit sector of its second one."""
_LIBRARY = Path("/usr/lib/grub")
"""Where the programs that `run` starts find theirs, so it is looked at through `run` only."""
_REMEDIES = {
    "arm64-efi": "put grub-efi-arm64-bin among the device's packages in the project file: its tarball then brings GRUB"
}


def grubenv(variables: Mapping[str, str]) -> bytes:
    """GRUB's environment block: exactly 1024 bytes."""
    lines = b"".join(f"{name}={value}\n".encode() for name, value in variables.items())
    return (_GRUBENV_HEADER + lines).ljust(GRUBENV_BYTES, b"#")


def parse_grubenv(block: bytes) -> dict[str, str]:
    """The variables; none for anything that is not an environment block, as GRUB sees it."""
    if len(block) != GRUBENV_BYTES or not block.startswith(_GRUBENV_HEADER):
        return {}
    lines = (line for line in block.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, found, value in (line.partition("=") for line in lines) if found}


INITIAL_STATE = {"slot": "a", "trial": "", "tries": "0", "failed": ""}


def efi_image(architecture: Architecture, target: Path, epoch: int, *, run: Run) -> Path:
    """This machine's GRUB, for a device whose tarball brings none."""
    return _mkimage(EFI_FILES[architecture][0], efi_argv(architecture, str(target)), target, epoch, run=run)


def core_image(boot_partition: int, target: Path, epoch: int, *, run: Run) -> Path:
    """A GRUB for BIOS: its folder is on partition `boot_partition` of the disk that it was read from."""
    prefix = f"(,gpt{boot_partition})/{FOLDER}"
    argv = mkimage_argv("i386-pc", prefix, [*MODULES, "biosdisk"], str(target))
    return _mkimage("i386-pc", argv, target, epoch, run=run)


def embed(image: Path, core: Path, partition: Partition, *, run: Run) -> None:
    """Writes boot code into sector 0 and core.img into the BIOS boot partition. The table must be there already."""
    content = bytearray(core.read_bytes())
    if len(content) > partition.size_bytes:
        raise BuildError(
            f"core.img has {len(content)} bytes and its partition {partition.size_bytes}",
            where=f"structure {partition.structure.name}",
            resolution="make the structure larger in meta/gadget.yaml",
        )
    struct.pack_into("<Q", content, _BLOCKLIST_OFFSET, partition.first + 1)
    boot_image = core.with_name("boot.img")
    run(["cp", _LIBRARY / "i386-pc" / "boot.img", boot_image])
    boot = bytearray(boot_image.read_bytes()[:_BOOT_CODE_BYTES])
    struct.pack_into("<Q", boot, _KERNEL_SECTOR_OFFSET, partition.first)
    with image.open("r+b") as file:
        file.write(boot)
        file.seek(partition.first * SECTOR_BYTES)
        file.write(content)


def _mkimage(platform: str, argv: list[str], target: Path, epoch: int, *, run: Run) -> Path:
    if run(["test", "-d", _LIBRARY / platform], accept=(0, 1)).status:
        raise HostError(
            f"there is no GRUB for {platform}",
            where=str(_LIBRARY / platform),
            resolution=_REMEDIES.get(platform, "install grub-pc-bin and grub-efi-amd64-bin"),
        )
    run(argv, env={"SOURCE_DATE_EPOCH": str(epoch)})
    return target
