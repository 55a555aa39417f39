"""`coreimage boot`: start an image in QEMU, or judge it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import BootError, HostError

if TYPE_CHECKING:
    from coreimage.model import Firmware

_QEMU = "qemu-system-x86_64"


@click.command()
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--firmware", type=click.Choice(["bios", "uefi"]), default="bios", show_default=True, help="What starts it."
)
@click.option("--check", is_flag=True, help="Headless: exit 0 when it reaches its login prompt, 1 when not.")
@pass_settings
def boot(settings: Settings, image: Path, firmware: Firmware, check: bool) -> None:
    """Boot IMAGE in QEMU, its serial console on this terminal (Ctrl-A X ends it).

    The guest's SSH port is port 2222 of this machine. With --check the image is not written to.

    \b
    Example:
      coreimage boot x86.img --firmware uefi --check
    """
    if check:
        _check(settings, image, firmware)
    else:
        _start(settings, image, firmware)


def _check(settings: Settings, image: Path, firmware: Firmware) -> None:
    from coreimage.boot_test import boot as boot_image  # noqa: PLC0415
    from coreimage.process import run, spawn  # noqa: PLC0415
    from coreimage.workspace import workspace  # noqa: PLC0415

    with workspace("boot") as work:
        outcome = boot_image(image, firmware, run=run, spawn=spawn, work_folder=work)
    verdict = f"{image} boots" if outcome.passed else f"{image} does not boot"
    text = f"{verdict} under {firmware}: {outcome.reason} ({outcome.duration_s:.0f} s, {outcome.accelerator})"
    if not outcome.passed:
        last = "".join(f"\n  | {line}" for line in outcome.last_lines)
        raise BootError(text + last, resolution="`coreimage boot` without --check shows its whole console")
    click.echo(outcome.model_dump_json(exclude={"serial_log"}) if settings.as_json else text)


def _start(settings: Settings, image: Path, firmware: Firmware) -> None:
    from coreimage.boot_test import probe_accelerator  # noqa: PLC0415
    from coreimage.boot_test.machine import firmware_argv  # noqa: PLC0415
    from coreimage.process import run  # noqa: PLC0415

    program = shutil.which(_QEMU)
    if program is None:
        raise HostError(f"{_QEMU} is not installed", resolution="install qemu-system-x86")
    folder = settings.state("boot")
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = probe_accelerator(run=run, work_folder=folder)
    argv = [*launch_line(image, accelerator), *firmware_argv(firmware, folder)]
    # QEMU takes our place, so that it has the terminal and its signals.
    os.execv(program, argv)  # noqa: S606


def launch_line(image: Path, accelerator: str) -> list[str]:
    """What to type to boot an image by hand, serial console on the terminal."""
    return [
        _QEMU,
        *("-m", "768", "-accel", accelerator, *(("-cpu", "host") if accelerator == "kvm" else ()), "-nographic"),
        *("-drive", f"if=virtio,format=raw,file={image}"),
        *("-nic", "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:2222-:22"),
    ]
