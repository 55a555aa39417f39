"""From a channel, or from local files, to a disk image: what `flash` does, and what the pipeline boots and releases."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path

from coreimage.client import Image, ImageFile, Session
from coreimage.client.install import Step, Wanted, install
from coreimage.client.session import Each
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
    image = _DiskImage(architecture, making, local, on_step, kept)
    on_step("Fetching information from server...")
    with client_errors(), _several_at_once(cancel) as each:
        install(
            session,
            Wanted(channel, device, revision=revision),
            image,
            making.work_folder / "parts",
            each=each,
            leave_out=lambda file: _replacing(file.name, local) is not None,
        )
    return image.made


class _DiskImage:
    """Of a full version: its tarballs are unpacked into the file systems as they are read."""

    made: AssembledImage

    def __init__(
        self,
        architecture: Architecture,
        making: Making,
        local: Sequence[LocalPart],
        on_step: Callable[[str], None],
        kept: KeptImages | None,
    ) -> None:
        self._architecture, self._making, self._local = architecture, making, local
        self._on_step, self._kept = on_step, kept

    def holds(self, wanted: Wanted, image: Image) -> bool:
        """Copies the kept one, if there is one."""
        self._on_step("Downloading and setting up...")
        facts = self._kept.give(self._key(wanted, image), self._making.output) if self._kept else None
        if facts is None:
            return False
        self._on_step(f"Installing {wanted.device}")
        self.made = _again(self._making.output, self._identity(wanted, image, epoch=facts.epoch))
        return True

    def install(self, wanted: Wanted, steps: Sequence[Step]) -> None:
        (step,) = steps
        files = with_local(step.image, step.files, self._local)
        self._on_step(f"Installing {wanted.device}")
        if self._local:
            said = ", ".join(str(part.path) for part in self._local)
            check_modules(scan(files, run=self._making.run), said)
        identity = self._identity(wanted, step.image, epoch=newest_mtime(files[-1]))
        self.made = self._making.assembled(files, identity, self._local)
        if self._kept:
            self._kept.keep(self._key(wanted, step.image), self._making.output, identity.epoch)

    def _key(self, wanted: Wanted, image: Image) -> str:
        return self._making.key(image, self._identity(wanted, image, epoch=0), self._local)

    def _identity(self, wanted: Wanted, image: Image, *, epoch: int) -> ImageIdentity:
        return _identity(wanted.channel, wanted.device, image.version, self._architecture, epoch=epoch)


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
    with _several_at_once(cancel) as each:
        return session.download(channel, device, image, folder, each=each, leave_out=replaced)


@contextmanager
def _several_at_once(cancel: Callable[[], None]) -> Iterator[Each]:
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE, thread_name_prefix="download")

    def each(function: Callable[[ImageFile], Path], files: Sequence[ImageFile], /) -> Iterable[Path]:
        futures = [pool.submit(copy_context().run, function, file) for file in files]
        return [future.result() for future in futures]

    try:
        yield each
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
