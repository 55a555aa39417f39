"""Boot an image in QEMU, and judge it by its serial console."""

from coreimage.boot_test.accelerator import probe_accelerator
from coreimage.boot_test.judge import BootOutcome, boot, boot_tests, require_boot
from coreimage.boot_test.machine import Machine, make_overlay, start_machine

__all__ = [
    "BootOutcome",
    "Machine",
    "boot",
    "boot_tests",
    "make_overlay",
    "probe_accelerator",
    "require_boot",
    "start_machine",
]
