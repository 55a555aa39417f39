"""Which accelerator really runs guests on this machine: found out once, and remembered until the host starts anew."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import structlog

from coreimage.architecture.facts import FACTS
from coreimage.errors import InfrastructureError, ProcessError
from coreimage.host.cache_folder import cache_folder
from coreimage.host.process import Run
from coreimage.host.sandbox import Sandbox
from coreimage.model import Architecture

log = structlog.get_logger("coreimage.boot_test")

TCG = "tcg"
KVM = "kvm"
_KVM_DEVICE, _BOOT_ID = Path("/dev/kvm"), Path("/proc/sys/kernel/random/boot_id")
_PROBE_TIMEOUT_S = 5.0
_SECTOR_BYTES, _PROBE_DISK_BYTES = 512, 1 << 20
_PROBE_CODE = bytes.fromhex(
    "fa31c08ed8660f0116a07c0f20c00c010f22c0ea187c0800"  # protected mode: cli; lgdt; cr0 |= PE; jump to 32-bit code
    "66b810008ed88ec0"  # data segments
    "9bdbe3"  # fwait; fninit
    "bf001000000f22df31c0b9000c0000fcf3ab"  # cr3 = 0x1000; three empty page tables from there on
    "c7050010000003200000c7050020000003300000c7050030000083000000"  # the first 2 MiB, mapped to themselves
    "0f20e00c200f22e0b9800000c00f3280cc010f30"  # cr4 |= PAE; EFER |= LME
    "0f20c00d000000800f22c0ea797c00001800"  # cr0 |= PG; jump to 64-bit code
    "b010e6f4f4"  # mov al, 0x10; out 0xf4, al; hlt
    "6690"
    "0000000000000000ffff0000009acf00ffff00000092cf0000000000009a2000"  # the segments: none, code, data, 64-bit code
    "1f00807c0000"  # where they are
)
"""What firmware and kernels do first, loaded at 0x7c00: some hosts run real mode, and nothing beyond. At its end the
device isa-debug-exit ends QEMU with status (0x10 << 1) | 1."""
_PROBE_STATUS = 0x21


def probe_accelerator(architecture: Architecture, *, run: Run, work_folder: Path) -> str:
    """Return the accelerator that really runs guests here: `kvm` or `tcg`.

    /dev/kvm may open, and even run a few instructions, although real guests hang or QEMU ends at the CPU's features. So
    a guest is started, which goes through the firmware and its boot sector into long mode. An architecture without a
    BIOS, which starts no boot sector, is always emulated. The answer is remembered in the user's cache folder, as long
    as host, QEMU and device are the same.
    """
    if "bios" not in FACTS[architecture].firmwares or not os.access(_KVM_DEVICE, os.R_OK | os.W_OK):
        return TCG
    host, memory = _host_mark(FACTS[architecture].qemu.program), cache_folder() / "accelerator.json"
    with suppress(OSError, ValueError):
        remembered = json.loads(memory.read_text("utf-8"))
        if isinstance(remembered, dict) and remembered.get("host") == host and remembered.get("found") in {KVM, TCG}:
            return str(remembered["found"])
    accelerator = KVM if _kvm_works(architecture, run, work_folder) else TCG
    # A host that cannot remember the answer is asked again.
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_name(f".{memory.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"host": host, "found": accelerator}), "utf-8")
        temporary.replace(memory)
    return accelerator


def cpu_argv(accelerator: str, architecture: Architecture) -> list[str]:
    """Return the options of QEMU for processor and board.

    An emulated machine has one processor: with a second one, a boot takes twice the host's time.
    """
    qemu = FACTS[architecture].qemu
    if accelerator == TCG:
        cpu = ["-accel", TCG, "-smp", "1", *(["-cpu", qemu.emulated_cpu] if qemu.emulated_cpu else [])]
    else:
        cpu = ["-accel", accelerator, "-cpu", "host", "-smp", "2"]
    return [*cpu, "-machine", qemu.board]


def probe_boot_sector() -> bytes:
    """Return a disk whose only act is to end QEMU with a status that nothing else gives."""
    return (_PROBE_CODE.ljust(_SECTOR_BYTES - 2, b"\xf4") + b"\x55\xaa").ljust(_PROBE_DISK_BYTES, b"\0")


def _kvm_works(architecture: Architecture, run: Run, work_folder: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix="probe-", dir=work_folder) as folder:
        disk = Path(folder) / "probe.img"
        disk.write_bytes(probe_boot_sector())
        argv = [FACTS[architecture].qemu.program, *cpu_argv(KVM, architecture)]
        argv += ["-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-drive", f"if=virtio,format=raw,file={disk}", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
        try:
            run(argv, sandbox=Sandbox.PID_NAMESPACE, timeout_s=_PROBE_TIMEOUT_S, accept=(_PROBE_STATUS,))
        except (ProcessError, InfrastructureError) as error:
            log.debug("kvm runs no guest: falling back to TCG", reason=str(error).splitlines()[0])
            return False
    return True


def _host_mark(program: str) -> str:
    """Return what changes when the host is started anew, QEMU is replaced, or /dev/kvm is another device."""
    place = shutil.which(program)
    marks = [path.stat() for path in (_KVM_DEVICE, *([Path(place)] if place else []))]
    return " ".join([_BOOT_ID.read_text().strip(), *(f"{mark.st_ino}-{mark.st_ctime_ns}" for mark in marks)])
