"""Which accelerator really runs a guest here: asked once, and remembered until the host starts anew."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import structlog

from coreimage.cache import cache_folder
from coreimage.errors import InfrastructureError, ProcessError
from coreimage.model import Architecture
from coreimage.process import Run, Sandbox

log = structlog.get_logger("coreimage.boot_test")

TCG = "tcg"
KVM = "kvm"
_PROGRAM = "qemu-system-x86_64"
_MACHINE: dict[Architecture, str] = {"amd64": "q35", "arm64": "virt"}
_EMULATED_CPU: dict[Architecture, list[str]] = {"amd64": [], "arm64": ["-cpu", "cortex-a72"]}
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
"""What firmware and kernels do first, to where they run (0x7c00): some hosts run real mode, and nothing beyond. The
device isa-debug-exit then ends QEMU with status (0x10 << 1) | 1."""
_PROBE_STATUS = 0x21


def probe_accelerator(architecture: Architecture = "amd64", *, run: Run, work_folder: Path) -> str:
    """`kvm` when a guest really gets through the firmware and its boot sector into long mode, else `tcg`: always, for
    arm64.

    /dev/kvm may open, and even run a few instructions, although real guests hang or QEMU ends at the CPU's features.
    The answer is kept in the user's cache folder, for as long as host, QEMU and device are the same.
    """
    if architecture != "amd64" or not os.access(_KVM_DEVICE, os.R_OK | os.W_OK):
        return TCG
    host, kept = _host(), _kept_file()
    with suppress(OSError, ValueError):
        remembered = json.loads(kept.read_text("utf-8"))
        if isinstance(remembered, dict) and remembered.get("host") == host and remembered.get("found") in {KVM, TCG}:
            return str(remembered["found"])
    found = _probe(run, work_folder)
    _keep(kept, {"host": host, "found": found})
    return found


def cpu_argv(accelerator: str, architecture: Architecture = "amd64") -> list[str]:
    """One processor when it is emulated: with a second one, a boot takes twice the host's time."""
    emulated = ["-accel", "tcg", "-smp", "1", *_EMULATED_CPU[architecture]]
    accel = emulated if accelerator == TCG else ["-accel", accelerator, "-cpu", "host", "-smp", "2"]
    return [*accel, "-machine", _MACHINE[architecture]]


def probe_boot_sector() -> bytes:
    """A disk whose only act is to end QEMU with a status that nothing else gives."""
    return (_PROBE_CODE.ljust(_SECTOR_BYTES - 2, b"\xf4") + b"\x55\xaa").ljust(_PROBE_DISK_BYTES, b"\0")


def _probe(run: Run, work_folder: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="probe-", dir=work_folder) as folder:
        disk = Path(folder) / "probe.img"
        disk.write_bytes(probe_boot_sector())
        argv = [_PROGRAM, *cpu_argv(KVM), "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-drive", f"if=virtio,format=raw,file={disk}", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
        try:
            run(argv, sandbox=Sandbox.FAMILY, timeout_s=_PROBE_TIMEOUT_S, accept=(_PROBE_STATUS,))
        except (ProcessError, InfrastructureError) as error:
            log.debug("kvm runs no guest, falling back to TCG", why=str(error).splitlines()[0])
            return TCG
    return KVM


def _host() -> str:
    """Changes when the host is started anew, QEMU is replaced, or /dev/kvm is not the same device any more."""
    program = shutil.which(_PROGRAM)
    marks = [path.stat() for path in (_KVM_DEVICE, *([Path(program)] if program else []))]
    return " ".join([_BOOT_ID.read_text().strip(), *(f"{mark.st_ino}-{mark.st_ctime_ns}" for mark in marks)])


def _kept_file() -> Path:
    return cache_folder() / "accelerator.json"


def _keep(path: Path, answer: dict[str, str]) -> None:
    """A host that cannot remember is asked again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(answer), "utf-8")
        temporary.replace(path)
