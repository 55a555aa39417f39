"""The finish of a disk image for one user: its login and customisation, its format, and at last its name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coreimage.disk_image import (
    FREE_OUTPUT_SPACE,
    Compression,
    Customisation,
    Form,
    Login,
    personalise,
    write_bmap,
    write_form,
)
from coreimage.host.disk_space import explain_full_disk
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.model import Architecture
from coreimage.operations.tools import ImageTools


@dataclass(frozen=True)
class RawImage:
    """The facts of a raw image, however it was made, and the tools that made it."""

    architecture: Architecture
    channel: str
    version: int
    tools: ImageTools
    epoch: int | None = None
    """Seconds, UTC: the time of every file that is added; None is now."""


@dataclass(frozen=True)
class Finish:
    """The changes to a raw image after it was made. Without a login, we let nobody in."""

    login: Login | None
    form: Form = "raw"
    compression: Compression | None = None
    bmap: bool = False
    """Whether a block map for bmaptool is left beside it."""
    customisation: Customisation | None = None


def finish_image(output: Path, make: Callable[[Path, Path], RawImage], finish: Finish) -> RawImage:
    """Make a raw image, finish it as asked for, and move it to `output` as the last step.

    Args:
        output: The file that appears whole at the end; an existing file is replaced.
        make: Makes the raw image at the first path; the second is a work folder beside it.
        finish: The changes to the image.

    Raises:
        DiskFullError: The disk is full; the message says how to make room. Nothing is left of the image, as with any
            other error of `make`.
    """
    with (
        explain_full_disk(str(output), resolution=FREE_OUTPUT_SPACE),
        workspace("image", parent=output.absolute().parent) as work,
    ):
        raw = work / "disk.img"
        image = make(raw, work)
        personalise(
            raw,
            finish.login,
            int(time.time()) if image.epoch is None else image.epoch,
            run=image.tools.run,
            work_folder=work,
            customisation=finish.customisation or Customisation(),
        )
        _move_to_output(raw, output, finish, work, image.tools.run)
    return image


def _move_to_output(raw: Path, output: Path, finish: Finish, work: Path, run: Run) -> None:
    bmap_path = output.with_name(f"{output.name}.bmap")
    bmap = write_bmap(raw, work / "disk.bmap", run=run) if finish.bmap else None
    image = write_form(raw, work / "disk.out", finish.form, finish.compression, run=run)
    if bmap:
        bmap.replace(bmap_path)
    try:
        image.replace(output)
    except BaseException:
        if bmap:
            bmap_path.unlink(missing_ok=True)
        raise
