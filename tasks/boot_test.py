"""The boot gate as a task."""

from __future__ import annotations

from coreimage import boot_test as room
from coreimage import disk_image
from coreimage.model import BootReport, DiskImage, Firmware
from coreimage.process import run, spawn
from coreimage.workspace import workspace
from tasks.caching import artifact_task
from tasks.console import show_console
from tasks.site import Site


@artifact_task()
def boot_test(image: DiskImage, firmwares: tuple[Firmware, ...], *, site: Site) -> tuple[BootReport, ...]:
    """Raises BootError for an image that does not boot under one of them, so that only a pass is remembered."""
    store = site.store()
    with workspace("boot") as work:
        raw = disk_image.fetch_image(image, work / "disk.img", store=store, run=run)
        reports = room.boot_tests(
            raw,
            image.raw_sha256,
            firmwares,
            store=store,
            run=run,
            spawn=spawn,
            work_folder=work,
            architecture=image.architecture,
        )
    for report in reports:
        if not report.passed:
            show_console(image.channel, image.device, report, store)
    return tuple(room.require_boot(report) for report in reports)
