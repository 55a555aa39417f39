"""A virtual machine: QEMU with its serial console and its monitor (QMP) on sockets of ours."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from coreimage.architecture.facts import FACTS
from coreimage.boot_test.accelerator import TCG, cpu_argv
from coreimage.boot_test.console import Console
from coreimage.errors import BootError, HostError
from coreimage.host.children import Child
from coreimage.host.process import Run
from coreimage.host.sandbox import Sandbox
from coreimage.host.workspace import workspace
from coreimage.model import Architecture, Firmware

Spawn = Callable[..., AbstractContextManager[Child]]
"""`coreimage.host.process.spawn`, or what takes its place in a test."""

MEMORY_MIB = 768
"""2015's `kvm -m 768 x86.img`."""
_START_TIMEOUT_S = 120.0
_EMULATED_CLOCK_ARGV = ("-icount", "shift=1,sleep=on")
"""An emulated guest's clock advances with its own instructions (2 ns each), and with the host's time while it idles. On
a busy host it would otherwise see minutes pass in which it cannot run, and give up services and devices."""


def make_overlay(image: Path, overlay: Path, *, run: Run) -> Path:
    """Make a qcow2 file that takes all writes, so that the image stays as it is."""
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
        """Send a QMP command, and return what QEMU answers.

        Raises:
            BootError: QEMU refuses the command, or has ended.
        """
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
        """Save a picture of the display as PNG."""
        self.command("screendump", filename=str(target.absolute()), format="png")

    def reset(self) -> None:
        """Press the reset button: the guest does not shut down first."""
        self.command("system_reset")

    def cut_power(self) -> None:
        """End the guest between two instructions. Of what it had not flushed, only some may be on the disk."""
        self._child.end(grace_s=0)


@contextmanager
def start_machine(
    disk: Path,
    firmware: Firmware,
    architecture: Architecture,
    *,
    run_folder: Path,
    spawn: Spawn,
    accelerator: str = TCG,
    disk_format: str = "qcow2",
    reboot: bool = False,
    ssh_port: int | None = None,
    memory_mib: int = MEMORY_MIB,
) -> Iterator[Machine]:
    """Start a guest, and end it when the block is left.

    Args:
        disk: Is written to.
        firmware: What the guest starts with.
        architecture: The guest's.
        run_folder: Gets `serial.log`, which grows from start to start, and keeps the UEFI variables.
        spawn: Starts QEMU.
        accelerator: `kvm` or `tcg`.
        disk_format: That of `disk`, as QEMU calls it.
        reboot: Whether the guest may reboot; otherwise QEMU ends there.
        ssh_port: A port of the loopback interface that leads to the guest's port 22; None for no network.
        memory_mib: The guest's memory.

    Raises:
        HostError: QEMU or its firmware is missing or does not start.
    """
    qemu = FACTS[architecture].qemu
    with ExitStack() as stack:
        sockets = stack.enter_context(workspace("vm"))
        serial = _listen(sockets / "serial", stack)
        monitor = _listen(sockets / "qmp", stack)
        argv = [qemu.program, *cpu_argv(accelerator, architecture), *qemu.display]
        argv += _EMULATED_CLOCK_ARGV if accelerator == TCG else ()
        argv += _devices_argv(disk, disk_format, sockets, memory_mib)
        argv += firmware_argv(firmware, architecture, run_folder)
        argv += _network_argv(ssh_port) + ([] if reboot else ["-no-reboot"])
        child = stack.enter_context(spawn(argv, sandbox=Sandbox.PID_NAMESPACE))
        monitor_end = stack.enter_context(_accept(monitor, child))
        serial_end = stack.enter_context(_accept(serial, child))
        console = Console(serial_end, run_folder / "serial.log", clock=running_clock(_peer_pid(monitor_end)))
        yield Machine(child, console, monitor_end)


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
    """Return the options of QEMU for a firmware.

    Args:
        firmware: The firmware.
        architecture: The guest's.
        run_folder: Keeps the UEFI variables.

    Raises:
        HostError: The architecture has no such firmware, or it is not installed.
    """
    if firmware not in FACTS[architecture].firmwares:
        raise HostError(f"there is no {firmware.upper()} for {architecture}", resolution="boot it with UEFI")
    if firmware == "bios":
        return []
    uefi = FACTS[architecture].qemu.uefi
    images = [(uefi.folder / code, uefi.folder / variables) for code, variables in uefi.images]
    installed = next((pair for pair in images if all(path.is_file() for path in pair)), None)
    if installed is None:
        raise HostError(
            f"there is no UEFI firmware for {architecture}",
            where=str(uefi.folder),
            resolution=f"sudo apt-get install {uefi.package}",
        )
    code, variables = installed
    own = run_folder / f"uefi-variables-{architecture}.fd"
    if not own.exists():
        shutil.copyfile(variables, own)
    flash = "if=pflash,format=raw"
    return ["-drive", f"{flash},unit=0,readonly=on,file={code}", "-drive", f"{flash},unit=1,file={own}"]


def _network_argv(ssh_port: int | None) -> list[str]:
    if ssh_port is None:
        return ["-nic", "none"]
    return ["-nic", f"user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"]


def _peer_pid(connection: socket.socket) -> int:
    """Return the process at the other end of a Unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _user, _group = struct.unpack("3i", credentials)
    return int(pid)


def running_clock(pid: int) -> Callable[[], float]:
    """Return a clock, in seconds, that stands still while a process waits for a processor.

    So time limits hold on a busy host. The waiting time is the second field of `schedstat` (Linux, sched-stats.rst),
    in ns; that of the thread that waited longest counts, which is the one that runs the guest.
    """
    longest_wait_ns = 0

    def running_s() -> float:
        nonlocal longest_wait_ns
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            # A thread may have ended, and a kernel need not count.
            with suppress(OSError, IndexError):
                longest_wait_ns = max(longest_wait_ns, int(schedstat.read_text().split()[1]))
        return time.monotonic() - longest_wait_ns / 1e9

    return running_s


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
                lines = "".join(f"\n  | {line}" for line in child.lines())
                raise HostError(f"QEMU does not start{lines}") from None
    raise HostError(f"QEMU did not start within {_START_TIMEOUT_S:.0f} s")
