"""GRUB for UEFI: where it looks for its configuration, what it is made of, and what makes it."""

from __future__ import annotations

from coreimage.model import Architecture

FOLDER = "EFI/coreimage"
"""On system-boot: grub.cfg, grubenv, and a/ and b/ with the kernels of the slots."""
EFI_FILES: dict[Architecture, tuple[str, str]] = {
    "amd64": ("x86_64-efi", "EFI/BOOT/BOOTX64.EFI"),
    "arm64": ("arm64-efi", "EFI/BOOT/BOOTAA64.EFI"),
}
"""GRUB's platform, and the file that firmware starts from removable media (UEFI specification, 3.5.1.1)."""
MODULES = (
    *("part_gpt", "fat", "ext2", "normal", "configfile", "linux", "boot", "loadenv", "test", "echo"),
    *("serial", "terminal", "reboot", "halt", "ls", "cat", "search", "search_label", "minicmd"),
)


def efi_argv(architecture: Architecture, target: str) -> list[str]:
    """A GRUB for removable media: it finds its folder on the partition that the firmware loaded it from."""
    return mkimage_argv(EFI_FILES[architecture][0], f"/{FOLDER}", [*MODULES, "efi_gop"], target)


def mkimage_argv(platform: str, prefix: str, modules: list[str], target: str) -> list[str]:
    return ["grub-mkimage", "-O", platform, "-p", prefix, "-o", target, *modules]
