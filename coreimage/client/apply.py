"""From the installed version to the one that a channel offers: find the path, download and verify it, apply it.

The one way in for all who install: a device's updater, which writes the slot that it does not run from, and `flash`,
which makes a disk image. Killed at any moment, `install` is called again: files that are whole are not fetched again.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from coreimage.client.documents import Image, ImageFile, Index
from coreimage.client.errors import NoSpaceError
from coreimage.client.session import Each, Session
from coreimage.client.tree import Tree, tree_sha256
from coreimage.client.upgrade import UpgradePath, find_path, newest_reachable, phase_of, select_full, starting_version

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
Activity = Literal["download", "unpack", "write", "verify"]


class OnProgress(Protocol):
    """Is told that `done` of `total` is done: bytes of downloads, images unpacked, entries written or compared."""

    def __call__(self, activity: Activity, done: int, total: int, /) -> None: ...


def ignore_progress(_activity: Activity, _done: int, _total: int, /) -> None:
    """Do nothing with the progress."""


@dataclass(frozen=True)
class InstallRequest:
    """What an update starts from.

    Attributes:
        channel: The channel to follow.
        device: The device's name in the channel.
        installed_version: 0 where nothing is installed.
        base: The content of the installed version, without its version file; None allows full images only.
        channel_target: What the installed version's channel followed, if it was an alias.
        machine_id: What the device's place in a phased release comes of; a device without takes part in every phase.
        revision: Asks for one full version, as `select_full` counts, whatever is installed and offered.
    """

    channel: str
    device: str
    installed_version: int = 0
    base: Tree | None = None
    channel_target: str | None = None
    machine_id: str = ""
    revision: int | None = None


@dataclass(frozen=True)
class VerifiedImage:
    """One image of an upgrade path, and its downloaded, verified files in the order in which they are applied."""

    image: Image
    files: tuple[Path, ...]

    @property
    def payloads(self) -> tuple[Path, ...]:
        """The files that make the content."""
        names = self._version_names
        return tuple(file for file in self.files if file.name not in names)

    @property
    def version_files(self) -> tuple[Path, ...]:
        """The file that says channel, device and version; none in images of some other servers."""
        names = self._version_names
        return tuple(file for file in self.files if file.name in names)

    @property
    def _version_names(self) -> frozenset[str]:
        return frozenset(file.name for file in self.image.files if file.is_version_file)


@dataclass(frozen=True)
class ApplyPlan:
    """The images, in order, that make the new version of `request.base`. There is at least one."""

    request: InstallRequest
    images: tuple[VerifiedImage, ...]

    @property
    def version(self) -> int:
        """The version that the plan leads to."""
        return self.images[-1].image.version


class Target(Protocol):
    """Where a version is installed: a slot, a folder, a disk image."""

    def holds(self, request: InstallRequest, image: Image) -> bool:
        """Return whether the target is the version of `image` already, whole."""
        ...

    def apply(self, plan: ApplyPlan) -> None:
        """Become the version that the plan leads to, and never be taken for it before. Raises ClientError."""
        ...


def install(
    session: Session,
    request: InstallRequest,
    target: Target,
    downloads: Path,
    *,
    each: Each = map,
    leave_out: Callable[[ImageFile], bool] = lambda _: False,
    on_progress: OnProgress = ignore_progress,
) -> Image | None:
    """Make `target` hold what the server offers.

    Args:
        session: The visit of the server.
        request: What the update starts from.
        target: Where to install.
        downloads: A folder for this alone; what an earlier call left there is used or removed.
        each: `map`, or one that downloads several files at a time.
        leave_out: Which files the target does not need.
        on_progress: Is told how far each activity is.

    Returns:
        The image that the target holds now; None where nothing newer is offered.

    Raises:
        ClientError: A file is not right, or the target cannot be written. Every file is verified before any is
            applied: until then the target is as it was.
    """
    with _full_disk_errors():
        path = find_upgrade(session, request)
        if not path.images:
            return None
        image = path.images[-1]
        if not target.holds(request, image):
            images = _download(
                session, request, path.images, downloads, each=each, leave_out=leave_out, on_progress=on_progress
            )
            target.apply(ApplyPlan(request, images))
        shutil.rmtree(downloads, ignore_errors=True)
        return image


def find_upgrade(session: Session, request: InstallRequest) -> UpgradePath:
    """Return the images from what is installed to what the device is offered; none when it is up to date.

    Raises:
        NotPresentError: The server does not have the channel, device or revision.
        ClientError: The server cannot be read or trusted.
    """
    index = session.index(request.channel, request.device)
    if request.revision is not None:
        return UpgradePath((select_full(index.images, request.revision),))
    alias = session.channels()[request.channel].alias
    installed = starting_version(request.installed_version, alias, request.channel_target)
    images: Sequence[Image] = index.images
    if not installed or not _is_base_of(index, request):
        images = [image for image in images if image.type == "full" or image.base != installed]
    percent = 0
    if request.machine_id:
        percent = phase_of(alias or request.channel, newest_reachable(images, installed), request.machine_id)
    return find_path(images, installed, device_percent=percent)


def _is_base_of(index: Index, request: InstallRequest) -> bool:
    """Return whether the base is the content that the server knows as the installed version, so that deltas fit.

    A server of 2015 does not say what the content is: there it is taken to fit.
    """
    if request.base is None:
        return False
    digests = {image.tree_sha256 for image in index.images if image.version == request.installed_version}
    return digests <= {None} or tree_sha256(request.base.entries()) in digests


def _download(
    session: Session,
    request: InstallRequest,
    images: Sequence[Image],
    downloads: Path,
    *,
    each: Each,
    leave_out: Callable[[ImageFile], bool],
    on_progress: OnProgress,
) -> tuple[VerifiedImage, ...]:
    """Download the images, each to a folder of its own, and remove what other calls left in `downloads`."""
    folders = {downloads / f"{image.version}-{image.base or 0}-{image.form}": image for image in images}
    for entry in downloads.iterdir() if downloads.is_dir() else ():
        if entry not in folders:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)

    files = [
        (folder / file.name, file) for folder, image in folders.items() for file in image.files if not leave_out(file)
    ]
    needed_bytes = sum(file.size_bytes for path, file in files if not path.exists())
    free_bytes = shutil.disk_usage(downloads).free
    if needed_bytes > free_bytes:
        raise NoSpaceError(f"{needed_bytes} bytes are to be downloaded, {free_bytes} are free", where=str(downloads))

    done_bytes, total_bytes = 0, sum(file.size_bytes for _, file in files)

    def each_counted(function: Callable[[ImageFile], Path], files: Sequence[ImageFile], /) -> Iterator[Path]:
        nonlocal done_bytes
        for file, path in zip(files, each(function, files), strict=True):
            done_bytes += file.size_bytes
            on_progress("download", done_bytes, total_bytes)
            yield path

    verified = []
    for folder, image in folders.items():
        left_out = [file.name for file in image.files if leave_out(file)]
        paths = session.download(request.channel, request.device, image, folder, each=each_counted, leave_out=left_out)
        verified.append(VerifiedImage(image, paths))
    return tuple(verified)


@contextmanager
def _full_disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise NoSpaceError("the disk is full", where=str(error.filename or "")) from error
