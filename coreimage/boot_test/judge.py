"""Whether an image boots, judged by its serial console."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from coreimage.boot_test.console import Seen
from coreimage.boot_test.machine import Spawn, make_overlay, probe_accelerator, start_machine
from coreimage.errors import BootError
from coreimage.model import LOG, BootReport, Firmware, Value
from coreimage.process import Run
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
DEFAULT_TIMEOUT_S = 300.0


class BootOutcome(Value):
    passed: bool
    reason: str
    accelerator: str
    duration_s: float
    serial_log: bytes
    last_lines: tuple[str, ...]


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
    timeout_s: float = DEFAULT_TIMEOUT_S,
    accelerator: str | None = None,
) -> BootOutcome:
    """Boots a raw image, which is not changed, until it shows a login prompt or fails, at most for `timeout_s`."""
    accelerator = accelerator or probe_accelerator(run=run, work_folder=work_folder)
    with tempfile.TemporaryDirectory(prefix=f"boot-{firmware}-", dir=work_folder) as name:
        folder = Path(name)
        overlay = make_overlay(image, folder / "overlay.qcow2", run=run)
        start = time.monotonic()
        with start_machine(overlay, firmware, run_folder=folder, spawn=spawn, accelerator=accelerator) as machine:
            seen = machine.console.await_any(OUTCOMES, timeout_s)
            last_lines = machine.console.lines()
        passed, reason = judge(seen)
        log = folder / "serial.log"
        return BootOutcome(
            passed=passed,
            reason=reason,
            accelerator=accelerator,
            duration_s=round(time.monotonic() - start, 1),
            serial_log=log.read_bytes() if log.exists() else b"",
            last_lines=last_lines,
        )


def boot_test(
    image: Path,
    image_sha256: str,
    firmware: Firmware,
    *,
    store: Store,
    run: Run,
    spawn: Spawn,
    work_folder: Path,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> BootReport:
    """The stage: boots a raw image and stores its serial log. A failed boot is a report, not an error."""
    outcome = boot(image, firmware, run=run, spawn=spawn, work_folder=work_folder, timeout_s=timeout_s)
    return BootReport(
        image_sha256=image_sha256,
        firmware=firmware,
        accelerator=outcome.accelerator,
        passed=outcome.passed,
        reason=outcome.reason,
        duration_s=outcome.duration_s,
        serial_log=put_blob_bytes(store, outcome.serial_log, LOG),
        last_lines=outcome.last_lines,
    )


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
