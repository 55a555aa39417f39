"""Whether an image boots, judged by its serial console."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from threading import Lock
from typing import Any

from coreimage.boot_test.accelerator import probe_accelerator
from coreimage.boot_test.console import Seen
from coreimage.boot_test.machine import Machine, Spawn, make_overlay, start_machine
from coreimage.errors import BootError
from coreimage.model import LOG, PNG, Architecture, BootReport, Firmware, Value
from coreimage.process import Child, Run
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
_PATIENCE: dict[Architecture, float] = {"amd64": 1.0, "arm64": 3.0}
"""So many times longer a boot may take where the processor is another than the machine's, and all of it is emulated."""


class BootOutcome(Value):
    passed: bool
    reason: str
    accelerator: str
    duration_s: float
    serial_log: bytes
    last_lines: tuple[str, ...]
    screenshot: bytes


def judge(seen: Seen) -> tuple[bool, str]:
    """Whether what came on the console is a success, and what it means."""
    return seen.name == PASSED, _REASONS[seen.name]


def boot(
    image: Path,
    firmware: Firmware,
    *,
    run: Run,
    spawn: Spawn,
    work_folder: Path,
    architecture: Architecture = "amd64",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    accelerator: str | None = None,
) -> BootOutcome:
    """Boots a raw image, which is not changed, until it shows a login prompt or fails, at most for `timeout_s`; three
    times that on a foreign processor."""
    accelerator = accelerator or probe_accelerator(architecture, run=run, work_folder=work_folder)
    with tempfile.TemporaryDirectory(prefix=f"boot-{firmware}-", dir=work_folder) as name:
        folder = Path(name)
        overlay = make_overlay(image, folder / "overlay.qcow2", run=run)
        start = time.monotonic()
        started = start_machine(
            overlay, firmware, run_folder=folder, spawn=spawn, architecture=architecture, accelerator=accelerator
        )
        with started as machine:
            seen = machine.console.await_any(OUTCOMES, timeout_s * _PATIENCE[architecture])
            last_lines = machine.console.lines()
            screenshot = _picture(machine, folder / "screen.png")
        passed, reason = judge(seen)
        log = folder / "serial.log"
        return BootOutcome(
            passed=passed,
            reason=reason,
            accelerator=accelerator,
            duration_s=round(time.monotonic() - start, 1),
            serial_log=log.read_bytes() if log.exists() else b"",
            last_lines=last_lines,
            screenshot=screenshot,
        )


def _picture(machine: Machine, path: Path) -> bytes:
    """Empty where there is no machine any more to look at."""
    try:
        machine.screenshot(path)
        return path.read_bytes()
    except (BootError, OSError):
        return b""


def boot_test(
    image: Path,
    image_sha256: str,
    firmware: Firmware,
    *,
    store: Store,
    run: Run,
    spawn: Spawn,
    work_folder: Path,
    architecture: Architecture = "amd64",
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> BootReport:
    """The stage: boots a raw image and stores its serial log. A failed boot is a report, not an error."""
    outcome = boot(
        image,
        firmware,
        run=run,
        spawn=spawn,
        work_folder=work_folder,
        architecture=architecture,
        timeout_s=timeout_s,
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


def boot_tests(
    image: Path,
    image_sha256: str,
    firmwares: Sequence[Firmware],
    *,
    store: Store,
    run: Run,
    spawn: Spawn,
    work_folder: Path,
    architecture: Architecture = "amd64",
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> tuple[BootReport, ...]:
    """`boot_test` under all of `firmwares` at once; the reports are in their order.

    Threads of our own, since a machine needs little of us: when this is interrupted, or one of the tests cannot be
    done, the machines end at once and the threads with them.
    """
    probe_accelerator(architecture, run=run, work_folder=work_folder)
    machines = _Machines(spawn)

    def test(firmware: Firmware) -> BootReport:
        return boot_test(
            image,
            image_sha256,
            firmware,
            store=store,
            run=run,
            spawn=machines.spawn,
            work_folder=work_folder,
            architecture=architecture,
            timeout_s=timeout_s,
        )

    with ThreadPoolExecutor(len(firmwares) or 1, "boot-test") as pool:
        try:
            started = [pool.submit(copy_context().run, test, firmware) for firmware in firmwares]
            for future in as_completed(started):
                future.result()
        except BaseException:
            machines.end()
            raise
    return tuple(future.result() for future in started)


class _Machines:
    """Starts children in any thread, and ends all of them from another. After `end` none lives longer than a moment."""

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
    """The report itself. Raises BootError with the console's last lines when the boot failed."""
    if not report.passed:
        lines = "".join(f"\n  | {line}" for line in report.last_lines)
        raise BootError(
            f"the image does not boot under {report.firmware}: {report.reason}{lines}",
            where=report.image_sha256[:16],
            resolution=f"the whole serial log is {report.serial_log.uri} in the store",
        )
    return report
