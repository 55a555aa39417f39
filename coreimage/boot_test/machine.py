"""A virtual machine: QEMU with its serial console and its monitor (QMP) on sockets of ours."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coreimage.boot_test.accelerator import TCG, cpu_argv
from coreimage.boot_test.console import Console
from coreimage.errors import BootError, HostError
from coreimage.model import FIRMWARES, Architecture, Firmware
from coreimage.process import Child, Run, Sandbox
from coreimage.workspace import workspace

Spawn = Callable[..., AbstractContextManager[Child]]
"""`coreimage.process.spawn`, or what takes its place in a test."""

MEMORY_MIB = 768
"""2015's `kvm -m 768 x86.img`."""
_START_TIMEOUT_S = 120.0
PROGRAMS: dict[Architecture, str] = {"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}
_DISPLAY: dict[Architecture, list[str]] = {"amd64": ["-vga", "std"], "arm64": ["-device", "ramfb"]}


@dataclass(frozen=True)
class _Uefi:
    """Debian's builds of UEFI for QEMU: code and an empty store of variables, the newer names first."""

    package: str
    folder: Path
    pairs: tuple[tuple[str, str], ...]


_UEFI: dict[Architecture, _Uefi] = {
    "amd64": _Uefi(
        package="ovmf",
        folder=Path("/usr/share/OVMF"),
        pairs=(("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), ("OVMF_CODE.fd", "OVMF_VARS.fd")),
    ),
    "arm64": _Uefi(
        package="qemu-efi-aarch64",
        folder=Path("/usr/share/AAVMF"),
        pairs=(("AAVMF_CODE.no-secboot.fd", "AAVMF_VARS.fd"), ("AAVMF_CODE.fd", "AAVMF_VARS.fd")),
    ),
}


def make_overlay(image: Path, overlay: Path, *, run: Run) -> Path:
    """A qcow2 file that takes all writes, so that the image stays as it is."""
    backing = ["-F", "raw", "-b", str(image.absolute())]
    run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(overlay)])
    return overlay


class Machine:
    """A running guest. `console` is its serial port."""

    def __init__(self, child: Child, console: Console, monitor: socket.socket) -> None:
        self.console = console
        self._child, self._monitor = child, monitor
        self._replies = monitor.makefile("r", encoding="utf-8")
        self._replies.readline()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> Any:
        """One QMP command; its return value. Raises BootError when QEMU refuses it or is gone."""
        try:
            self._monitor.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
            for line in self._replies:
                reply = json.loads(line)
                if "return" in reply:
                    return reply["return"]
                if "error" in reply:
                    raise BootError(f"QEMU refuses {name}: {reply['error'].get('desc')}")
        except (OSError, ValueError) as error:
            raise BootError(f"QEMU's monitor does not answer {name}: {error}") from error
        raise BootError(f"QEMU ended during {name}")

    def screenshot(self, target: Path) -> None:
        """A PNG picture of the display."""
        self.command("screendump", filename=str(target.absolute()), format="png")

    def reset(self) -> None:
        """The reset button: nothing in the guest is told."""
        self.command("system_reset")

    def cut_power(self) -> None:
        """Ends the guest between two instructions; what it had not flushed is whatever QEMU had written by then."""
        self._child.end(grace_s=0)


@contextmanager
def start_machine(
    disk: Path,
    firmware: Firmware,
    *,
    run_folder: Path,
    spawn: Spawn,
    architecture: Architecture = "amd64",
    accelerator: str = TCG,
    disk_format: str = "qcow2",
    reboot: bool = False,
    ssh_port: int | None = None,
    memory_mib: int = MEMORY_MIB,
) -> Iterator[Machine]:
    """Starts a guest from `disk`, which is written to, and ends it when the block is left.

    `run_folder` gets `serial.log` (appended to) and the UEFI variables, which survive from start to start. Without
    `reboot`, QEMU ends where the guest would reboot. `ssh_port` of the loopback interface leads to the guest's port 22;
    without it the guest has no network. Raises HostError when QEMU or its firmware is missing or does not start.
    """
    with ExitStack() as stack:
        sockets = stack.enter_context(workspace("vm"))
        serial = _listen(sockets / "serial", stack)
        monitor = _listen(sockets / "qmp", stack)
        argv = [PROGRAMS[architecture], *cpu_argv(accelerator, architecture), *_DISPLAY[architecture]]
        argv += _devices_argv(disk, disk_format, sockets, memory_mib)
        argv += firmware_argv(firmware, architecture, run_folder)
        argv += _network_argv(ssh_port) + ([] if reboot else ["-no-reboot"])
        child = stack.enter_context(spawn(argv, sandbox=Sandbox.FAMILY))
        monitor_end = stack.enter_context(_accept(monitor, child))
        serial_end = stack.enter_context(_accept(serial, child))
        yield Machine(child, Console(serial_end, run_folder / "serial.log"), monitor_end)


def _devices_argv(disk: Path, disk_format: str, sockets: Path, memory_mib: int) -> list[str]:
    return [
        *("-m", str(memory_mib)),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-device", "virtio-rng-pci"),
        *("-drive", f"if=virtio,file={disk},format={disk_format},cache=unsafe"),
        *("-chardev", f"socket,id=serial,path={sockets / 'serial'}", "-serial", "chardev:serial"),
        *("-chardev", f"socket,id=qmp,path={sockets / 'qmp'}", "-mon", "chardev=qmp,mode=control"),
    ]


def firmware_argv(firmware: Firmware, architecture: Architecture, run_folder: Path) -> list[str]:
    """`run_folder` keeps the variables. Raises HostError for a firmware that is not installed or does not exist."""
    if firmware not in FIRMWARES[architecture]:
        raise HostError(f"there is no {firmware.upper()} for {architecture}", resolution="boot it with UEFI")
    if firmware == "bios":
        return []
    uefi = _UEFI[architecture]
    places = [(uefi.folder / code, uefi.folder / variables) for code, variables in uefi.pairs]
    found = next((place for place in places if all(path.is_file() for path in place)), None)
    if found is None:
        where, remedy = str(uefi.folder), f"sudo apt-get install {uefi.package}"
        raise HostError(f"there is no UEFI firmware for {architecture}", where=where, resolution=remedy)
    code, variables = found
    own = run_folder / f"uefi-variables-{architecture}.fd"
    if not own.exists():
        shutil.copyfile(variables, own)
    flash = "if=pflash,format=raw"
    return ["-drive", f"{flash},unit=0,readonly=on,file={code}", "-drive", f"{flash},unit=1,file={own}"]


def _network_argv(ssh_port: int | None) -> list[str]:
    if ssh_port is None:
        return ["-nic", "none"]
    return ["-nic", f"user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"]


def _listen(path: Path, stack: ExitStack) -> socket.socket:
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(0.25)
    return listener


def _accept(listener: socket.socket, child: Child) -> socket.socket:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            return listener.accept()[0]
        except TimeoutError:
            if not child.running():
                said: Sequence[str] = list(child.lines())
                raise HostError("QEMU does not start" + "".join(f"\n  | {line}" for line in said)) from None
    raise HostError(f"QEMU did not start within {_START_TIMEOUT_S:.0f} s")
