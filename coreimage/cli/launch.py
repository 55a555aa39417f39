"""What somebody types to boot an image: QEMU's command line, and our own."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coreimage.architecture.facts import FACTS

if TYPE_CHECKING:
    from coreimage.model import Architecture
    from coreimage.operations.finish_image import Finish

_UNPACK = {"xz": "xz -dk", "zst": "zstd -d", "gz": "gzip -dk"}


def launch_commands(output: Path, architecture: Architecture, finish: Finish) -> tuple[str, str]:
    """Return the lines that boot an image in QEMU and with `coreimage boot`; the second is empty for a packed image."""
    from coreimage.boot_test import probe_accelerator  # noqa: PLC0415
    from coreimage.host.process import run  # noqa: PLC0415
    from coreimage.host.workspace import workspace  # noqa: PLC0415

    if finish.compression:
        return f"{_UNPACK[finish.compression]} {shlex.quote(str(output))}, then boot what comes out", ""
    with workspace("launch") as work:
        accelerator = probe_accelerator(architecture, run=run, work_folder=work)
    qemu = launch_argv(output, accelerator, architecture, finish.form)
    return shlex.join(qemu), shlex.join([*own_command(), "boot", str(output)])


def launch_argv(image: Path, accelerator: str, architecture: Architecture, form: str = "raw") -> list[str]:
    """Return the argv that boots an image by hand."""
    # QEMU's own UEFI has no store of variables, which starting by hand does not need.
    rom = FACTS[architecture].qemu.boot_rom
    return [*qemu_argv(image, accelerator, architecture, form), *(["-bios", str(rom)] if rom else [])]


def qemu_argv(image: Path, accelerator: str, architecture: Architecture, form: str) -> list[str]:
    """Return QEMU's argv for an image, its serial console on the terminal and its SSH on port 2222, but no firmware."""
    from coreimage.boot_test.accelerator import cpu_argv  # noqa: PLC0415
    from coreimage.boot_test.machine import MEMORY_MIB  # noqa: PLC0415

    return [
        *(FACTS[architecture].qemu.program, "-m", str(MEMORY_MIB)),
        *(*cpu_argv(accelerator, architecture), "-nographic"),
        *("-drive", f"if=virtio,format={form},file={image}"),
        *("-nic", "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:2222-:22"),
    ]


def own_command() -> list[str]:
    """Return what starts this program from here: `coreimage` where the shell would find it, else a path to it."""
    started = Path(sys.argv[0])
    if started.name != "coreimage":
        return [sys.executable, "-m", "coreimage.cli"]
    on_path = shutil.which("coreimage")
    if on_path and Path(on_path).resolve() == started.resolve():
        return ["coreimage"]
    absolute = started.absolute()
    return [str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)]
