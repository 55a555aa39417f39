"""Whether an image boots, judged by what comes on its serial console."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from threading import Lock
from typing import Any

from coreimage.architecture.facts import FACTS
from coreimage.boot_test.accelerator import probe_accelerator
from coreimage.boot_test.console import Seen
from coreimage.boot_test.machine import Machine, Spawn, make_overlay, start_machine
from coreimage.errors import BootError
from coreimage.host.children import Child
from coreimage.host.process import Run
from coreimage.model import LOG, PNG, Architecture, BootReport, Firmware, Value
from coreimage.storage import Store, put_blob_bytes

PASSED = "login"
OUTCOMES = {
    PASSED: r"(?m)[\w.-]+ login: ",
    "panic": r"Kernel panic - not syncing",
    "emergency": r"You are in emergency mode|Give root password for maintenance|Press Enter for maintenance",
    "initramfs": r"\(initramfs\) ",
    "grub": r"grub(?: rescue)?> ",
    "slot": r"coreimage: slot [ab] does not start",
    "firmware": r"UEFI Interactive Shell|No bootable option or device",
}
_REASONS = {
    PASSED: "the login prompt came",
    "panic": "the kernel panicked",
    "emergency": "the system went into emergency mode",
    "initramfs": "the initramfs gave up and opened its shell",
    "grub": "GRUB found nothing to boot and opened its prompt",
    "slot": "GRUB could not start the kernel of a slot",
    "firmware": "the firmware found nothing to boot",
    "closed": "the machine stopped or rebooted before the login prompt",
    "deadline": "the login prompt did not come in time",
}
DEFAULT_TIMEOUT_S = 900.0
_FOREIGN_FACTOR = 3.0
"""How much longer a boot may take on a processor that is not the machine's own, and is emulated whole."""


class BootOutcome(Value):
    """How one boot went. `screenshot` is a PNG, empty where the machine had ended already."""

    passed: bool
    reason: str
    accelerator: str
    duration_s: float
    serial_log: bytes
    last_lines: tuple[str, ...]
    screenshot: bytes


def judge(seen: Seen) -> tuple[bool, str]:
    """Return whether what came on the console is a success, and what it means."""
    return seen.name == PASSED, _REASONS[seen.name]


def boot(
    image: Path,
    firmware: Firmware,
    architecture: Architecture,
    *,
    run: Run,
    spawn: Spawn,
    work_folder: Path,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    accelerator: str | None = None,
) -> BootOutcome:
    """Boot a raw image, which is not changed, until it shows a login prompt or fails.

    Args:
        image: The image.
        firmware: What the machine starts with.
        architecture: The machine's.
        run: Starts programs.
        spawn: Starts QEMU.
        work_folder: For files on the way, which are gone afterwards.
        timeout_s: How long it may take on a processor like this machine's; three times that on another.
        accelerator: `kvm` or `tcg`; if not given, the best one that works.

    Raises:
        HostError: QEMU or the firmware is missing or does not start.
    """
    if FACTS[architecture].machine != platform.machine():
        timeout_s *= _FOREIGN_FACTOR
    accelerator = accelerator or probe_accelerator(architecture, run=run, work_folder=work_folder)
    with tempfile.TemporaryDirectory(prefix=f"boot-{firmware}-", dir=work_folder) as name:
        folder = Path(name)
        overlay = make_overlay(image, folder / "overlay.qcow2", run=run)
        start_s = time.monotonic()
        with start_machine(
            overlay, firmware, architecture, run_folder=folder, spawn=spawn, accelerator=accelerator
        ) as machine:
            seen = machine.console.await_any(OUTCOMES, timeout_s)
            last_lines = machine.console.lines()
            screenshot = _screenshot(machine, folder / "screen.png")
        passed, reason = judge(seen)
        log = folder / "serial.log"
        return BootOutcome(
            passed=passed,
            reason=reason,
            accelerator=accelerator,
            duration_s=round(time.monotonic() - start_s, 1),
            serial_log=log.read_bytes() if log.exists() else b"",
            last_lines=last_lines,
            screenshot=screenshot,
        )


def _screenshot(machine: Machine, path: Path) -> bytes:
    try:
        machine.screenshot(path)
        return path.read_bytes()
    except (BootError, OSError):
        return b""


def boot_tests(
    image: Path,
    image_sha256: str,
    firmwares: Sequence[Firmware],
    architecture: Architecture,
    *,
    store: Store,
    run: Run,
    spawn: Spawn,
    work_folder: Path,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> tuple[BootReport, ...]:
    """Boot a raw image under several firmwares at once, and store the serial logs. A failed boot is no error.

    When this is interrupted, or one of the tests cannot be done, all machines end at once.

    Args:
        image: The image.
        image_sha256: Its digest, for the reports.
        firmwares: What it is booted with.
        architecture: The machine's.
        store: Gets the logs and pictures.
        run: Starts programs.
        spawn: Starts QEMU.
        work_folder: For files on the way, which are gone afterwards.
        timeout_s: As that of `boot`.

    Returns:
        One report for each of `firmwares`, in their order.
    """
    accelerator = probe_accelerator(architecture, run=run, work_folder=work_folder)
    machines = _Machines(spawn)

    def test(firmware: Firmware) -> BootReport:
        outcome = boot(
            image,
            firmware,
            architecture,
            run=run,
            spawn=machines.spawn,
            work_folder=work_folder,
            timeout_s=timeout_s,
            accelerator=accelerator,
        )
        return BootReport(
            image_sha256=image_sha256,
            firmware=firmware,
            accelerator=outcome.accelerator,
            passed=outcome.passed,
            reason=outcome.reason,
            duration_s=outcome.duration_s,
            serial_log=put_blob_bytes(store, outcome.serial_log, LOG),
            last_lines=outcome.last_lines,
            screenshot=put_blob_bytes(store, outcome.screenshot, PNG) if outcome.screenshot else None,
        )

    # Threads and not tasks: a machine needs little of this process, and must end with it.
    with ThreadPoolExecutor(len(firmwares) or 1, "boot-test") as executor:
        try:
            futures = [executor.submit(copy_context().run, test, firmware) for firmware in firmwares]
            for future in as_completed(futures):
                future.result()
        except BaseException:
            machines.end()
            raise
    return tuple(future.result() for future in futures)


class _Machines:
    """The children that several threads start, so that another thread can end them all. None starts after `end`."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn, self._lock = spawn, Lock()
        self._children: list[Child] = []
        self._ended = False

    @contextmanager
    def spawn(self, *args: Any, **kwargs: Any) -> Iterator[Child]:
        with self._spawn(*args, **kwargs) as child:
            with self._lock:
                self._children.append(child)
                ended = self._ended
            if ended:
                child.end(grace_s=0)
            yield child

    def end(self) -> None:
        with self._lock:
            self._ended = True
            children = list(self._children)
        for child in children:
            child.end(grace_s=0)


def require_boot(report: BootReport) -> BootReport:
    """Return the report of a boot that passed.

    Raises:
        BootError: The boot failed. The message has the console's last lines.
    """
    if not report.passed:
        lines = "".join(f"\n  | {line}" for line in report.last_lines)
        raise BootError(
            f"the image does not boot under {report.firmware}: {report.reason}{lines}",
            where=report.image_sha256[:16],
            resolution=f"the whole serial log is {report.serial_log.uri} in the store",
        )
    return report
