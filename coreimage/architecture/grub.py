"""GRUB's command lines: which modules an image is made of, and where it looks for its configuration."""

from __future__ import annotations

from coreimage.architecture.facts import FACTS
from coreimage.model import Architecture

FOLDER = "EFI/coreimage"
"""On system-boot: grub.cfg, grubenv, and a/ and b/ with the kernels of the slots."""
_MODULES = (
    *("part_gpt", "fat", "ext2", "normal", "configfile", "linux", "boot", "loadenv", "test", "echo"),
    *("serial", "terminal", "reboot", "halt", "ls", "cat", "search", "search_label", "minicmd"),
)


def efi_argv(architecture: Architecture, target: str) -> list[str]:
    """Return the command that makes a GRUB for UEFI: its folder is on the partition that it was loaded from."""
    return _argv(FACTS[architecture].efi_grub.platform, f"/{FOLDER}", "efi_gop", target)


def bios_argv(platform: str, boot_partition: int, target: str) -> list[str]:
    """Return the command that makes a GRUB for BIOS.

    Args:
        platform: GRUB's platform, such as `i386-pc`.
        boot_partition: Number of the partition with GRUB's folder, on the disk that GRUB itself was read from.
        target: Where core.img is written.
    """
    return _argv(platform, f"(,gpt{boot_partition})/{FOLDER}", "biosdisk", target)


def _argv(platform: str, prefix: str, firmware_module: str, target: str) -> list[str]:
    return ["grub-mkimage", "-O", platform, "-p", prefix, "-o", target, *_MODULES, firmware_module]
