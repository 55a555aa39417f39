from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import cast, get_args

import pytest
import yaml

from coreimage.architecture.facts import FACTS, Grub, UefiBuild
from coreimage.architecture.grub import efi_argv
from coreimage.boot_test.accelerator import cpu_argv
from coreimage.boot_test.machine import firmware_argv
from coreimage.cli.launch import launch_argv
from coreimage.disk_image.boot_loaders import uboot_script
from coreimage.errors import HostError
from coreimage.model import Architecture
from coreimage.rootfs.device_tarball import customize
from coreimage.rootfs.emulation import emulator
from coreimage.rootfs.spec import tools_of
from tests.harness.ordinary_user import ROOT_DIR

RISCV = cast("Architecture", "riscv64")


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """A third architecture, which is one more entry of the table."""
    arm64 = FACTS["arm64"]
    for name in ("CODE.fd", "VARS.fd"):
        (tmp_path / name).write_text(name)
    qemu = dataclasses.replace(
        arm64.qemu,
        name="riscv64",
        emulated_cpu="rva22s64",
        boot_rom=Path("/roms/riscv.fd"),
        uefi=UefiBuild("qemu-efi-riscv64", tmp_path, (("CODE.fd", "VARS.fd"),)),
    )
    facts = dataclasses.replace(
        arm64,
        machine="riscv64",
        elf_machine=243,
        efi_loader="BOOTRISCV64.EFI",
        efi_grub=Grub("riscv64-efi", "grub-efi-riscv64-bin"),
        uboot_number=26,
        qemu=qemu,
    )
    monkeypatch.setitem(FACTS, RISCV, facts)
    return RISCV


def test_the_table_has_every_architecture_that_values_can_name() -> None:
    assert tuple(FACTS) == get_args(Architecture)


def test_a_third_architecture_has_its_boot_loaders(third: Architecture) -> None:
    argv = efi_argv(third, "/boot/EFI/BOOT/BOOTRISCV64.EFI")
    assert argv[:5] == ["grub-mkimage", "-O", "riscv64-efi", "-p", "/EFI/coreimage"]
    assert shlex.join(argv) in customize(third)
    assert "/usr/lib/grub/riscv64-efi" in customize(third)
    assert tools_of(third)[-1:] == ("grub-efi-riscv64-bin",)
    assert uboot_script(b"boot", third, epoch=1)[29] == 26


def test_a_third_architecture_has_its_machine(third: Architecture, tmp_path: Path) -> None:
    assert cpu_argv("tcg", third) == ["-accel", "tcg", "-smp", "1", "-cpu", "rva22s64", "-machine", "virt"]
    line = shlex.join(launch_argv(Path("disk.img"), "tcg", third))
    assert line.startswith("qemu-system-riscv64 ")
    assert line.endswith(" -bios /roms/riscv.fd")
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    assert f"file={tmp_path}/CODE.fd" in firmware_argv("uefi", third, run_folder)[1]
    with pytest.raises(HostError, match="no BIOS for riscv64"):
        firmware_argv("bios", third, run_folder)


def test_a_third_architecture_has_its_emulator(third: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: f"/usr/bin/{name}")
    user_emulator = emulator(third)
    assert user_emulator is not None
    assert "riscv64" in user_emulator.interpreter.name
    assert user_emulator.magic[-2:] == (243).to_bytes(2, "little")


@pytest.mark.parametrize("gadget", sorted((ROOT_DIR / "deployments/gadgets").iterdir()), ids=lambda path: path.name)
def test_our_gadgets_name_the_console_of_their_architecture(gadget: Path) -> None:
    (architecture,) = yaml.safe_load((gadget / "meta/snap.yaml").read_text())["architectures"]
    scripts = [path.read_text() for path in gadget.iterdir() if path.suffix in {".cfg", ".cmd"}]
    consoles = {word.split(",")[0] for script in scripts for word in script.split() if word.startswith("console=tty")}
    assert consoles <= {"console=tty0", f"console={FACTS[architecture].serial_console}"}
