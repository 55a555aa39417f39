"""The disk of the board with U-Boot, booted by U-Boot itself: Debian's build for QEMU's arm64 machine."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coreimage.boot_test.console import Console
from coreimage.disk_image import ImageIdentity, assemble
from coreimage.disk_image.boot_loaders import UBOOT_ENVIRONMENT, uboot_environment
from coreimage.disk_image.table import read_partitions
from coreimage.host.process import run, spawn
from coreimage.host.sandbox import Sandbox
from tests.boot.synthetic import EPOCH, GADGET, device_tarball, initrd, tarball
from tests.harness.two import debian_packages

UBOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
IDENTITY = ImageIdentity(channel="c/1/edge", device="uboot_arm64", version=1, architecture="arm64", epoch=EPOCH)


@contextmanager
def machine(disk: Path, folder: Path) -> Iterator[Console]:
    """Writes to `disk`, and starts over when the guest resets."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "serial"))
        listener.listen(1)
        listener.settimeout(120)
        argv = ["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a57", "-m", "1024", "-bios", str(UBOOT)]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]
        argv += [
            "-drive",
            f"if=none,id=disk,file={disk},format=raw,cache=unsafe",
            "-device",
            "virtio-blk-pci,drive=disk",
        ]
        argv += ["-chardev", f"socket,id=serial,path={folder / 'serial'}", "-serial", "chardev:serial"]
        with spawn(argv, sandbox=Sandbox.PID_NAMESPACE), listener.accept()[0] as serial:
            yield Console(serial, folder / "serial.log")


def board(folder: Path, kernel: bytes, ramdisk: bytes) -> Path:
    parts = [
        tarball(folder / "rootfs.tar.gz", [("system", None, {})]),
        device_tarball(folder / "device.tar.gz", kernel, ramdisk),
    ]
    gadget = GADGET.parent / "uboot_arm64"
    return assemble(parts, gadget, IDENTITY, folder / "board.img", run=run, work_folder=folder).path


def test_u_boot_starts_the_kernel_of_slot_a(tmp_path: Path) -> None:
    """Debian's own U-Boot finds the script by itself, and the kernel reaches its login prompt."""
    trees = debian_packages("arm64", tmp_path / "debian")
    kernel = next((trees["kernel"] / "boot").glob("vmlinuz-*")).read_bytes()
    busybox = (trees["base"] / "usr/bin/busybox").read_bytes()
    disk = board(tmp_path, kernel, initrd(busybox, "ttyAMA0"))
    with machine(disk, tmp_path) as console:
        console.expect("Found U-Boot script /boot.scr", 120)
        console.expect("coreimage: slot a", 60)
        console.expect("root=LABEL=system-a ro", 240)
        console.expect("tiny login: ", 60)


@pytest.mark.parametrize(
    ("state", "slots", "after"),
    [
        ({"slot": "a", "trial": "b", "tries": "0"}, "baabab", "slot=a\ntries=0\nfailed=b\n"),
        ({"slot": "b", "trial": "", "tries": "0"}, "baba", "slot=b\ntries=0\n"),
        ({"slot": "x", "trial": "y", "tries": "z"}, "abab", ""),
    ],
    ids=["an unconfirmed trial is given up and stays so", "b stays", "garbage gives a"],
)
def test_slots(tmp_path: Path, state: dict[str, str], slots: str, after: str) -> None:
    """No kernel starts: so the script tries the one slot, then the other, and starts the machine over."""
    disk = board(tmp_path, b"no kernel", b"no initrd")
    boot = next(entry for entry in read_partitions(disk) if entry.name == "system-boot")
    place = f"{disk}@@{boot.offset_bytes}"
    for name in ("vmlinuz", "initrd.img"):
        run(["mcopy", "-i", place, f"::a/{name}", tmp_path / name])
        run(["mcopy", "-i", place, tmp_path / name, f"::b/{name}"])
    (tmp_path / "state").write_bytes(uboot_environment(state))
    run(["mcopy", "-o", "-i", place, tmp_path / "state", f"::{UBOOT_ENVIRONMENT}"])
    with machine(disk, tmp_path) as console:
        seen = ""
        for _ in slots:
            seen += console.expect(r"coreimage: slot ([ab])\r?\n", 120).rstrip()[-1]
        console.expect("does not start", 60)
    assert seen == slots
    text = run(["mtype", "-i", place, f"::{UBOOT_ENVIRONMENT}"]).output
    if after:
        assert sorted(re.findall(r"\w+=\w+", text)) == sorted(after.split())
