"""From what is installed to what a channel offers: the way is chosen, fetched, verified, and applied to a target.

The one way in for all who install: a device's updater, which writes the slot that it does not run from, and `flash`,
which makes a disk image. Killed at any moment, it is called again: files that are whole are not fetched again.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from coreimage.client.documents import Image, ImageFile, Index
from coreimage.client.errors import NoSpaceError
from coreimage.client.select import select_full
from coreimage.client.session import Each, Session
from coreimage.client.tree import Tree, tree_sha256
from coreimage.client.upgrade import Path as UpgradePath
from coreimage.client.upgrade import find_path, newest_reachable, phase_of, starting_build

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
Stage = Literal["download", "unpack", "write", "verify"]


class OnProgress(Protocol):
    """`done` of `total`: bytes of downloads, tarballs that are unpacked, files that are written or compared."""

    def __call__(self, stage: Stage, done: int, total: int, /) -> None: ...


def silent(_stage: Stage, _done: int, _total: int, /) -> None:
    """Who does not want to know."""


@dataclass(frozen=True)
class Wanted:
    """`build` is the version that is installed, 0 for none, and `base` its files, all but those of the version itself;
    without them only full images lead on. `channel_target` is what the installed version followed if its channel was
    an alias. Without `machine_id` the device takes part in every phase.

    `revision` asks for one full version, as `select_full` counts them, whatever is installed and offered.
    """

    channel: str
    device: str
    build: int = 0
    base: Tree | None = None
    channel_target: str | None = None
    machine_id: str = ""
    revision: int | None = None


@dataclass(frozen=True)
class Step:
    """One image of the way, and its verified files in the order in which they are applied."""

    image: Image
    files: tuple[Path, ...]


class Target(Protocol):
    """Where a version is installed: a slot, a folder, a disk image."""

    def holds(self, wanted: Wanted, image: Image) -> bool:
        """Whether it is this version already, whole."""
        ...

    def install(self, wanted: Wanted, steps: Sequence[Step]) -> None:
        """Becomes what the steps make of `wanted.base`; never taken for whole before it is. Raises ClientError."""
        ...


def install(
    session: Session,
    wanted: Wanted,
    target: Target,
    downloads: Path,
    *,
    each: Each = map,
    leave_out: Callable[[ImageFile], bool] = lambda _: False,
    on_progress: OnProgress = silent,
) -> Image | None:
    """The image that `target` holds now; None where nothing newer is offered.

    `downloads` is a folder for this alone: what an earlier call left there is used or removed. Every file is verified
    by size, digest and signature before any is applied. Raises ClientError; a target that was not begun is as it was.
    """
    with _full_disks():
        path = choose(session, wanted)
        if not path.images:
            return None
        if not target.holds(wanted, path.images[-1]):
            steps = _fetch(
                session, wanted, path.images, downloads, each=each, leave_out=leave_out, on_progress=on_progress
            )
            target.install(wanted, steps)
        shutil.rmtree(downloads, ignore_errors=True)
        return path.images[-1]


def choose(session: Session, wanted: Wanted) -> UpgradePath:
    """The images that lead from what is installed to what the device is offered; none when it is up to date.

    Raises NotPresentError for a channel, device or revision that the server does not have.
    """
    index = session.index(wanted.channel, wanted.device)
    if wanted.revision is not None:
        return UpgradePath((select_full(index.images, wanted.revision),))
    alias = session.channels()[wanted.channel].alias
    build = starting_build(wanted.build, alias, wanted.channel_target)
    images = index.images if build and _fits(wanted, index) else _without_first_deltas(index.images, build)
    percent = 0
    if wanted.machine_id:
        percent = phase_of(alias or wanted.channel, newest_reachable(images, build), wanted.machine_id)
    return find_path(images, build, device_percent=percent)


def _fits(wanted: Wanted, index: Index) -> bool:
    """Whether deltas from the installed version can be applied to what is there. A server of 2015 does not say."""
    if wanted.base is None:
        return False
    said = {image.tree_sha256 for image in index.images if image.version == wanted.build}
    return said <= {None} or tree_sha256(wanted.base.entries()) in said


def _without_first_deltas(images: Iterable[Image], build: int) -> list[Image]:
    return [image for image in images if image.type == "full" or image.base != build]


def _fetch(
    session: Session,
    wanted: Wanted,
    images: Sequence[Image],
    downloads: Path,
    *,
    each: Each,
    leave_out: Callable[[ImageFile], bool],
    on_progress: OnProgress,
) -> list[Step]:
    folders = {downloads / f"{image.version}-{image.base or 0}-{image.form}": image for image in images}
    for other in downloads.iterdir() if downloads.is_dir() else ():
        if other not in folders:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    files = [(folder / file.name, file) for folder, image in folders.items() for file in image.files]
    _require_room(downloads, [file for path, file in files if not leave_out(file) and not path.exists()])
    total, done = sum(file.size_bytes for _, file in files if not leave_out(file)), 0

    def counting(function: Callable[[ImageFile], Path], files: Sequence[ImageFile], /) -> Iterator[Path]:
        nonlocal done
        for file, path in zip(files, each(function, files), strict=True):
            done += file.size_bytes
            on_progress("download", done, total)
            yield path

    def step(folder: Path, image: Image) -> Step:
        left_out = [file.name for file in image.files if leave_out(file)]
        found = session.download(wanted.channel, wanted.device, image, folder, each=counting, leave_out=left_out)
        return Step(image, found)

    return [step(folder, image) for folder, image in folders.items()]


def _require_room(folder: Path, files: Sequence[ImageFile]) -> None:
    needed_bytes, free_bytes = sum(file.size_bytes for file in files), shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise NoSpaceError(f"{needed_bytes} bytes are to be downloaded, {free_bytes} are free", where=str(folder))


@contextmanager
def _full_disks() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise NoSpaceError("the disk is full", where=str(error.filename or "")) from error
