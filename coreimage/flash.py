"""From a channel, or from local files, to a disk image: what `flash` does, and what the pipeline boots and releases."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path

from coreimage.client import Image, ImageFile, Session
from coreimage.disk_image import AssembledImage, ImageIdentity, KeptImages, assemble, image_key
from coreimage.image_server import WEB_ROOT, StoreWeb, client_errors
from coreimage.local_parts import SERVER_PREFIXES, LocalPart, check_modules, scan, version_part
from coreimage.model import Architecture
from coreimage.process import Run

__all__ = ["WEB_ROOT", "Making", "StoreWeb", "download_files", "flash", "flash_local"]

DOWNLOADS_AT_ONCE = 4


@dataclass(frozen=True)
class Making:
    """How an image is made, whatever of. `tools_tree` is the digest of the tree that `run` starts programs from, if it
    does; the other fields are those of `assemble`."""

    gadget_folder: Path
    output: Path
    run: Run
    work_folder: Path
    size_bytes: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    on_detail: Callable[[str], None] | None = None
    tools_tree: str | None = None

    def assembled(self, files: Sequence[Path], identity: ImageIdentity, local: Sequence[LocalPart]) -> AssembledImage:
        return assemble(
            files,
            self.gadget_folder,
            identity,
            self.output,
            run=self.run,
            work_folder=self.work_folder,
            size_bytes=self.size_bytes,
            on_step=self.on_detail,
            options=self.said(local),
        )

    def key(self, image: Image, of: ImageIdentity, local: Sequence[LocalPart]) -> str:
        """The options have the digests of local parts. `of` is without an epoch: that is of the image's own files."""
        parts = [f"{file.name} {file.sha256}" for file in image.files]
        said = {"of": of, "size": self.size_bytes, "options": self.said(local)}
        return image_key(parts, self.gadget_folder, said, self.tools_tree)

    def said(self, local: Sequence[LocalPart]) -> dict[str, object]:
        """What the record on the boot partition says; the presence of local parts there turns updates off."""
        return {**self.options, **{f"{part.kind}-part": part.said for part in local}}


def flash(
    session: Session,
    channel: str,
    device: str,
    architecture: Architecture,
    making: Making,
    *,
    revision: int = 0,
    local: Sequence[LocalPart] = (),
    on_step: Callable[[str], None] = lambda _: None,
    cancel: Callable[[], None] = lambda: None,
    kept: KeptImages | None = None,
) -> AssembledImage:
    """Makes a raw image of a channel's version: chain of trust verified, files applied by their order.

    `revision` 0 is the newest, a negative one counts back from it. A `local` part takes the place of the server's.
    `cancel` ends downloads under way. What `kept` has already is copied from there. Raises VerificationError for
    what is not signed as it should, NotFoundError for what the server has not, and what `assemble` raises.
    """
    with client_errors():
        on_step("Fetching information from server...")
        image = session.select(channel, device, revision)
        on_step("Downloading and setting up...")
        unkept = _identity(channel, device, image.version, architecture, epoch=0)
        key = making.key(image, unkept, local)
        if kept and (facts := kept.give(key, making.output)):
            on_step(f"Installing {device}")
            return _again(making.output, unkept.model_copy(update={"epoch": facts.epoch}))
        folder = making.work_folder / "parts"
        parts = download_files(session, channel, device, image, folder, local=local, cancel=cancel)
    files = with_local(image, parts, local)
    on_step(f"Installing {device}")
    if local:
        check_modules(scan(files, run=making.run), ", ".join(str(part.path) for part in local))
    made = making.assembled(files, unkept.model_copy(update={"epoch": newest_mtime(files[-1])}), local)
    if kept:
        kept.keep(key, making.output, made.identity.epoch)
    return made


def flash_local(
    channel: str,
    device: str,
    architecture: Architecture,
    version: int,
    making: Making,
    *,
    local: Sequence[LocalPart],
    on_step: Callable[[str], None] = lambda _: None,
) -> AssembledImage:
    """The same without any server: all of the image is `local`, and only its version part is made here."""
    on_step(f"Installing {device}")
    paths = [part.path for part in local]
    scanned = scan(paths, run=making.run)
    check_modules(scanned, ", ".join(map(str, paths)))
    roles = {"ubuntu" if part.kind == "rootfs" else "raw-device": "local" for part in local}
    version_file = version_part(channel, device, version, roles, folder=making.work_folder, epoch=scanned.newest)
    identity = _identity(channel, device, version, architecture, epoch=scanned.newest)
    return making.assembled([*paths, version_file], identity, local)


def _identity(channel: str, device: str, version: int, architecture: Architecture, *, epoch: int) -> ImageIdentity:
    return ImageIdentity(channel=channel, device=device, version=version, architecture=architecture, epoch=epoch)


def _again(output: Path, identity: ImageIdentity) -> AssembledImage:
    return AssembledImage(path=output, identity=identity, raw_size_bytes=output.stat().st_size)


def download_files(
    session: Session,
    channel: str,
    device: str,
    image: Image,
    folder: Path,
    *,
    local: Sequence[LocalPart] = (),
    cancel: Callable[[], None] = lambda: None,
) -> tuple[Path, ...]:
    """The verified files of an image in `folder`, several at a time, without those that a local part replaces."""
    folder.mkdir(exist_ok=True)
    replaced = [file.name for file in image.files if _replacing(file.name, local)]
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE, thread_name_prefix="download")

    def each(function: Callable[[ImageFile], Path], files: Sequence[ImageFile]) -> Iterable[Path]:
        futures = [pool.submit(copy_context().run, function, file) for file in files]
        return [future.result() for future in futures]

    try:
        return session.download(channel, device, image, folder, each=each, leave_out=replaced)
    finally:
        # Whoever interrupts does not wait for a server that hangs.
        cancel()
        pool.shutdown(wait=False, cancel_futures=True)


def with_local(image: Image, parts: Sequence[Path], local: Sequence[LocalPart]) -> list[Path]:
    """The parts in the image's order, local ones at the places of those that they replace, else before the last."""
    by_name = {part.name: part for part in parts}
    left = list(local)
    files: list[Path] = []
    for file in image.files:
        replacing = _replacing(file.name, left)
        if replacing:
            left.remove(replacing)
            files.append(replacing.path)
        elif file.name in by_name:
            files.append(by_name[file.name])
    return [*files[:-1], *(part.path for part in left), *files[-1:]]


def _replacing(name: str, local: Sequence[LocalPart]) -> LocalPart | None:
    return next((part for part in local if name.startswith(SERVER_PREFIXES[part.kind])), None)


def newest_mtime(tarball: Path) -> int:
    """Seconds, UTC: of the version tarball, when the version was made."""
    with tarfile.open(tarball) as tar:
        return max((int(member.mtime) for member in tar), default=0)
