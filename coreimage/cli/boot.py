"""`coreimage boot`: start an image in QEMU, or judge it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import BootError, HostError, UsageError

if TYPE_CHECKING:
    from coreimage.model import Architecture, Firmware

_ARM64_UEFI = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
"""Of Debian's qemu-efi-aarch64: without a store of variables, which starting by hand does not need."""


@click.command()
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), help="What starts it [bios; uefi for arm64].")
@click.option("--check", is_flag=True, help="Headless: exit 0 when it reaches its login prompt, 1 when not.")
@pass_settings
def boot(settings: Settings, image: Path, firmware: Firmware | None, check: bool) -> None:
    """Boot IMAGE in QEMU, its serial console on this terminal (Ctrl-A X ends it).

    The guest's SSH port is port 2222 of this machine. With --check the image is not written to.

    \b
    Example:
      coreimage boot x86.img --firmware uefi --check
    """
    from coreimage.disk_image import FORMS, form_of, image_architecture  # noqa: PLC0415
    from coreimage.model import FIRMWARES  # noqa: PLC0415
    from coreimage.process import run  # noqa: PLC0415

    form = form_of(image)
    if form not in FORMS:
        raise UsageError(
            f"is compressed with {form}", where=str(image), resolution="unpack it, and boot what comes out"
        )
    with _as_raw(image, form) as raw:
        architecture = image_architecture(raw, run=run)
        if check:
            _check(settings, raw, firmware or FIRMWARES[architecture][0], architecture, name=image)
    if not check:
        _start(settings, image, form, firmware or FIRMWARES[architecture][0], architecture)


@contextmanager
def _as_raw(image: Path, form: str) -> Iterator[Path]:
    """The image itself, or a copy in the form that all else reads."""
    from coreimage.process import run  # noqa: PLC0415
    from coreimage.workspace import workspace  # noqa: PLC0415

    if form == "raw":
        yield image
        return
    with workspace("boot", run=run) as work:
        run(["qemu-img", "convert", "-f", form, "-O", "raw", image, work / "disk.img"])
        yield work / "disk.img"


def _check(settings: Settings, image: Path, firmware: Firmware, architecture: Architecture, *, name: Path) -> None:
    from coreimage.boot_test import boot as boot_image  # noqa: PLC0415
    from coreimage.process import run, spawn  # noqa: PLC0415
    from coreimage.workspace import workspace  # noqa: PLC0415

    with workspace("boot") as work:
        outcome = boot_image(image, firmware, run=run, spawn=spawn, work_folder=work, architecture=architecture)
    verdict = f"{name} boots" if outcome.passed else f"{name} does not boot"
    text = f"{verdict} under {firmware}: {outcome.reason} ({outcome.duration_s:.0f} s, {outcome.accelerator})"
    if not outcome.passed:
        last = "".join(f"\n  | {line}" for line in outcome.last_lines)
        raise BootError(text + last, resolution="`coreimage boot` without --check shows its whole console")
    click.echo(outcome.model_dump_json(exclude={"serial_log"}) if settings.as_json else text)


def _start(settings: Settings, image: Path, form: str, firmware: Firmware, architecture: Architecture) -> None:
    from coreimage.boot_test import probe_accelerator  # noqa: PLC0415
    from coreimage.boot_test.machine import PROGRAMS, firmware_argv  # noqa: PLC0415
    from coreimage.process import run  # noqa: PLC0415

    program = shutil.which(PROGRAMS[architecture])
    if program is None:
        package = "qemu-system-arm" if architecture == "arm64" else "qemu-system-x86"
        raise HostError(f"{PROGRAMS[architecture]} is not installed", resolution=f"sudo apt-get install {package}")
    folder = settings.state("boot")
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = probe_accelerator(architecture, run=run, work_folder=folder)
    argv = [*_machine(image, accelerator, architecture, form), *firmware_argv(firmware, architecture, folder)]
    # QEMU takes our place, so that it has the terminal and its signals.
    os.execv(program, argv)  # noqa: S606


def launch_line(image: Path, accelerator: str, architecture: Architecture, form: str = "raw") -> list[str]:
    """What to type to boot an image by hand, serial console on the terminal."""
    firmware = ["-bios", _ARM64_UEFI] if architecture == "arm64" else []
    return [*_machine(image, accelerator, architecture, form), *firmware]


def _machine(image: Path, accelerator: str, architecture: Architecture, form: str) -> list[str]:
    emulated = {"amd64": [], "arm64": ["-cpu", "cortex-a72"]}[architecture]
    program, board = {"amd64": ("qemu-system-x86_64", []), "arm64": ("qemu-system-aarch64", ["-machine", "virt"])}[
        architecture
    ]
    return [
        *(program, "-m", "768", *board),
        *("-accel", accelerator, *(["-cpu", "host"] if accelerator == "kvm" else emulated), "-nographic"),
        *("-drive", f"if=virtio,format={form},file={image}"),
        *("-nic", "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:2222-:22"),
    ]
