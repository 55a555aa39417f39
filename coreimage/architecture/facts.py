"""The table of what differs between processor architectures, for images, boots and builds alike.

A new architecture is its name in `model.Architecture` and one entry of `FACTS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from coreimage.model import Architecture, Firmware


@dataclass(frozen=True)
class UefiBuild:
    """Debian's UEFI for QEMU: `images` are pairs of code and empty variable store in `folder`, the preferred first."""

    package: str
    folder: Path
    images: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Qemu:
    """How QEMU plays a machine of the architecture.

    Attributes:
        name: QEMU's own name of it, as in `qemu-system-NAME` and `qemu-NAME-static`.
        package: Debian's package of `qemu-system-NAME`.
        board: QEMU's `-machine`.
        display: Options for a display, of which screenshots are made.
        uefi: The UEFI firmware with a store of variables.
        emulated_cpu: QEMU's `-cpu` for TCG; empty for the board's default.
        boot_rom: A UEFI firmware without such a store, for a board that has no BIOS of its own.
    """

    name: str
    package: str
    board: str
    display: tuple[str, ...]
    uefi: UefiBuild
    emulated_cpu: str = ""
    boot_rom: Path | None = None

    @property
    def program(self) -> str:
        """The name of the system emulator, which runs machines."""
        return f"qemu-system-{self.name}"

    @property
    def user_program(self) -> str:
        """The name of the user-mode emulator, which runs single programs."""
        return f"qemu-{self.name}-static"


@dataclass(frozen=True)
class Grub:
    """A GRUB platform, and the Debian package that brings its modules."""

    platform: str
    package: str


@dataclass(frozen=True)
class ArchitectureFacts:
    """All that coreimage knows of one architecture.

    Attributes:
        machine: `uname -m`.
        elf_machine: `e_machine` of its ELF files (elf(5)).
        firmwares: What a machine can be started by, the default first.
        efi_loader: What firmware starts from removable media, below `EFI/BOOT` (UEFI 2.10 §3.5.1.1).
        efi_grub: GRUB for UEFI.
        bios_grub: GRUB for BIOS; None where machines have none.
        uboot_number: IH_ARCH in U-Boot's include/image.h.
        serial_console: The kernel's name of QEMU's first serial port, which gadgets name on the kernel's command line.
        xz_filter: xz's filter for machine code, if decoders of 2015 know it (that for arm64 is of xz 5.4).
    """

    machine: str
    elf_machine: int
    firmwares: tuple[Firmware, ...]
    efi_loader: str
    efi_grub: Grub
    bios_grub: Grub | None
    uboot_number: int
    serial_console: str
    xz_filter: Literal["x86"] | None
    qemu: Qemu

    @property
    def efi_path(self) -> str:
        """The path of the EFI loader on the boot partition."""
        return f"EFI/BOOT/{self.efi_loader}"

    @property
    def grubs(self) -> tuple[Grub, ...]:
        """The GRUBs of all its firmwares."""
        return tuple(grub for grub in (self.bios_grub, self.efi_grub) if grub)


FACTS: dict[Architecture, ArchitectureFacts] = {
    "amd64": ArchitectureFacts(
        machine="x86_64",
        elf_machine=62,
        firmwares=("bios", "uefi"),
        efi_loader="BOOTX64.EFI",
        efi_grub=Grub("x86_64-efi", "grub-efi-amd64-bin"),
        bios_grub=Grub("i386-pc", "grub-pc-bin"),
        uboot_number=24,
        serial_console="ttyS0",
        xz_filter="x86",
        qemu=Qemu(
            name="x86_64",
            package="qemu-system-x86",
            board="q35",
            display=("-vga", "std"),
            uefi=UefiBuild(
                package="ovmf",
                folder=Path("/usr/share/OVMF"),
                images=(("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), ("OVMF_CODE.fd", "OVMF_VARS.fd")),
            ),
        ),
    ),
    "arm64": ArchitectureFacts(
        machine="aarch64",
        elf_machine=183,
        firmwares=("uefi",),
        efi_loader="BOOTAA64.EFI",
        efi_grub=Grub("arm64-efi", "grub-efi-arm64-bin"),
        bios_grub=None,
        uboot_number=22,
        serial_console="ttyAMA0",
        xz_filter=None,
        qemu=Qemu(
            name="aarch64",
            package="qemu-system-arm",
            board="virt",
            display=("-device", "ramfb"),
            uefi=UefiBuild(
                package="qemu-efi-aarch64",
                folder=Path("/usr/share/AAVMF"),
                images=(("AAVMF_CODE.no-secboot.fd", "AAVMF_VARS.fd"), ("AAVMF_CODE.fd", "AAVMF_VARS.fd")),
            ),
            emulated_cpu="cortex-a72",
            boot_rom=Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"),
        ),
    ),
}

BY_MACHINE: dict[str, Architecture] = {facts.machine: name for name, facts in FACTS.items()}
"""Architecture by `uname -m`."""
