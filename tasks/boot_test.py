"""The boot gate as a task."""

from __future__ import annotations

from coreimage import boot_test as room
from coreimage.model import BootReport, DiskImage, Firmware
from tasks.caching import artifact_task
from tasks.site import Site


@artifact_task(code=["coreimage.boot_test"])
def boot_test(image: DiskImage, firmware: Firmware, *, site: Site) -> BootReport:
    """Raises BootError for an image that does not boot, so that only a pass is remembered."""
    report = room.boot_test(image, firmware, store=site.store())
    room.require_boot(report)
    return report
