"""From a channel to a disk image: what a user's `flash` does, and what the pipeline boots before it releases."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

from coreimage.client import Session
from coreimage.disk_image import AssembledImage, ImageIdentity, assemble
from coreimage.image_server import WEB_ROOT, StoreWeb, client_errors
from coreimage.model import Architecture
from coreimage.process import Run

__all__ = ["WEB_ROOT", "StoreWeb", "flash"]


def flash(
    session: Session,
    channel: str,
    device: str,
    architecture: Architecture,
    *,
    gadget_folder: Path,
    output: Path,
    run: Run,
    work_folder: Path,
    revision: int = 0,
    size_bytes: int | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> AssembledImage:
    """Makes a raw image of a channel's version at `output`: chain of trust verified, files applied by their order.

    `revision` 0 is the newest, a negative one counts back from it. Raises VerificationError for what is not signed
    as it should, NotFoundError for what the server has not, and what `assemble` raises.
    """
    parts = work_folder / "parts"
    parts.mkdir()
    with client_errors():
        on_step("Fetching information from server...")
        image = session.select(channel, device, revision)
        on_step("Downloading and setting up...")
        files = session.download(channel, device, image, parts)
    on_step(f"Installing {device}")
    identity = ImageIdentity(
        channel=channel, device=device, version=image.version, architecture=architecture, epoch=newest_mtime(files[-1])
    )
    return assemble(files, gadget_folder, identity, output, run=run, work_folder=work_folder, size_bytes=size_bytes)


def newest_mtime(tarball: Path) -> int:
    """Seconds, UTC: of the version tarball, when the version was made."""
    with tarfile.open(tarball) as tar:
        return max((int(member.mtime) for member in tar), default=0)
