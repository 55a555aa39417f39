"""The task that boots an image before it may be released."""

from __future__ import annotations

from typing import Any

from coreimage import boot_test as room
from coreimage import disk_image
from coreimage.errors import BootError
from coreimage.host.process import run, spawn
from coreimage.host.workspace import workspace
from coreimage.model import BootReport, DiskImage, Firmware
from tasks.console import show_console, show_failed_boot
from tasks.factory import artifact_task
from tasks.site import Site


def _title(parameters: dict[str, Any]) -> str:
    firmwares = " and ".join(name.upper() for name in parameters["firmwares"])
    return f"Booting {parameters['image'].device} with {firmwares}"


@artifact_task(title=_title)
def boot_test(image: DiskImage, firmwares: tuple[Firmware, ...], *, site: Site) -> tuple[BootReport, ...]:
    """Boot the image under each firmware, and return the reports.

    Raises:
        BootError: The image does not boot. Since an error is no result, only a pass is remembered.
    """
    store = site.store()
    with workspace("boot") as work:
        raw = disk_image.fetch_image(image, work / "disk.img", store=store, run=run)
        reports = room.boot_tests(
            raw,
            image.raw_sha256,
            firmwares,
            image.architecture,
            store=store,
            run=run,
            spawn=spawn,
            work_folder=work,
        )
    for report in reports:
        if not report.passed:
            show_console(image.channel, image.device, report, store)
    try:
        return tuple(room.require_boot(report) for report in reports)
    except BootError as error:
        show_failed_boot(image.channel, image.device, error)
        raise
