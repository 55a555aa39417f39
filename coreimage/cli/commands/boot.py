"""`coreimage boot`: start an image in QEMU, or judge whether it boots."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.architecture.facts import FACTS
from coreimage.cli.launch import qemu_argv
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import BootError, HostError, UsageError

if TYPE_CHECKING:
    from coreimage.boot_test import BootOutcome
    from coreimage.model import Architecture, Firmware


@click.command()
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--firmware", type=click.Choice(["bios", "uefi"]), help="What starts it [the first that its architecture has]."
)
@click.option("--check", is_flag=True, help="Headless: exit 0 when it reaches its login prompt, 1 when not.")
@pass_settings
def boot(settings: Settings, image: Path, firmware: Firmware | None, check: bool) -> None:
    """Boot IMAGE in QEMU, its serial console on this terminal (Ctrl-A X ends it).

    The guest's SSH port is port 2222 of this machine. With --check the image is not written to.

    \b
    Example:
      coreimage boot x86.img --firmware uefi --check
    """
    from coreimage.boot_test import boot as boot_image  # noqa: PLC0415
    from coreimage.disk_image import FORMS, form_of, image_architecture  # noqa: PLC0415
    from coreimage.host.process import run, spawn  # noqa: PLC0415
    from coreimage.host.workspace import workspace  # noqa: PLC0415

    form = form_of(image)
    if form not in FORMS:
        raise UsageError(
            f"is compressed with {form}", where=str(image), resolution="unpack it, and boot what comes out"
        )
    with workspace("boot", run=run) as work:
        raw = image
        if form != "raw":
            raw = work / "disk.img"
            run(["qemu-img", "convert", "-f", form, "-O", "raw", image, raw])
        architecture = image_architecture(raw, run=run)
        firmware = firmware or FACTS[architecture].firmwares[0]
        if check:
            outcome = boot_image(raw, firmware, architecture, run=run, spawn=spawn, work_folder=work)
    if check:
        _show_outcome(settings, image, firmware, outcome)
    else:
        _become_qemu(settings, image, form, firmware, architecture)


def _show_outcome(settings: Settings, image: Path, firmware: Firmware, outcome: BootOutcome) -> None:
    verdict = f"{image} boots" if outcome.passed else f"{image} does not boot"
    text = f"{verdict} under {firmware}: {outcome.reason} ({outcome.duration_s:.0f} s, {outcome.accelerator})"
    if not outcome.passed:
        console = "".join(f"\n  | {line}" for line in outcome.last_lines)
        raise BootError(text + console, resolution="`coreimage boot` without --check shows its whole console")
    click.echo(outcome.model_dump_json(exclude={"serial_log"}) if settings.as_json else text)


def _become_qemu(settings: Settings, image: Path, form: str, firmware: Firmware, architecture: Architecture) -> None:
    """Let QEMU take the place of this process, so that it has the terminal and its signals."""
    from coreimage.boot_test import probe_accelerator  # noqa: PLC0415
    from coreimage.boot_test.machine import firmware_argv  # noqa: PLC0415
    from coreimage.host.process import run  # noqa: PLC0415

    qemu = FACTS[architecture].qemu
    program = shutil.which(qemu.program)
    if program is None:
        raise HostError(f"{qemu.program} is not installed", resolution=f"sudo apt-get install {qemu.package}")
    folder = settings.state("boot")
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = probe_accelerator(architecture, run=run, work_folder=folder)
    argv = [*qemu_argv(image, accelerator, architecture, form), *firmware_argv(firmware, architecture, folder)]
    os.execv(program, argv)  # noqa: S606
