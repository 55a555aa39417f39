"""From a channel, or from local files, to a disk image: what `flash` does, and what the pipeline boots and releases."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

from coreimage.client import Image, ImageFile, Session
from coreimage.disk_image import AssembledImage, ImageIdentity, KeptImages, assemble, image_key
from coreimage.image_server import WEB_ROOT, StoreWeb, client_errors
from coreimage.local_parts import SERVER_PREFIXES, LocalPart, check_modules, scan, version_part
from coreimage.model import Architecture
from coreimage.process import Run

__all__ = ["WEB_ROOT", "StoreWeb", "download_files", "flash", "flash_local"]

DOWNLOADS_AT_ONCE = 4


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
    local: Sequence[LocalPart] = (),
    options: Mapping[str, object] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    on_detail: Callable[[str], None] | None = None,
    cancel: Callable[[], None] = lambda: None,
    kept: KeptImages | None = None,
    tools_tree: str | None = None,
) -> AssembledImage:
    """Makes a raw image of a channel's version at `output`: chain of trust verified, files applied by their order.

    `revision` 0 is the newest, a negative one counts back from it. A `local` part takes the place of the server's.
    `cancel` ends downloads under way. What `kept` has already is copied from there; `tools_tree` is the digest of the
    tree that `run` starts programs from, if it does. Raises VerificationError for
    what is not signed as it should, NotFoundError for what the server has not, and what `assemble` raises.
    """
    with client_errors():
        on_step("Fetching information from server...")
        image = session.select(channel, device, revision)
        on_step("Downloading and setting up...")
        whole = {**(options or {}), **said(local)}
        wanted = _Wanted(channel, device, image, architecture)
        key = wanted.key(gadget_folder, size_bytes, whole, tools_tree)
        if kept and (facts := kept.give(key, output)):
            on_step(f"Installing {device}")
            return _again(output, wanted.identity(facts.epoch))
        parts = download_files(session, channel, device, image, work_folder / "parts", local=local, cancel=cancel)
    files = with_local(image, parts, local)
    on_step(f"Installing {device}")
    if local:
        check_modules(scan(files, run=run), ", ".join(str(part.path) for part in local))
    identity = wanted.identity(newest_mtime(files[-1]))
    made = assemble(
        files,
        gadget_folder,
        identity,
        output,
        run=run,
        work_folder=work_folder,
        size_bytes=size_bytes,
        on_step=on_detail,
        options=whole,
    )
    if kept:
        kept.keep(key, output, identity.epoch)
    return made


@dataclass(frozen=True)
class _Wanted:
    """The image of a channel that is made."""

    channel: str
    device: str
    image: Image
    architecture: Architecture

    def identity(self, epoch: int) -> ImageIdentity:
        return ImageIdentity(
            channel=self.channel,
            device=self.device,
            version=self.image.version,
            architecture=self.architecture,
            epoch=epoch,
        )

    def key(
        self, gadget_folder: Path, size_bytes: int | None, options: Mapping[str, object], tools_tree: str | None
    ) -> str:
        """The options have the digests of local parts; the epoch is that of the image's own files."""
        parts = [f"{file.name} {file.sha256}" for file in self.image.files]
        said = {"of": self.identity(0), "size": size_bytes, "options": options}
        return image_key(parts, gadget_folder, said, tools_tree)


def _again(output: Path, identity: ImageIdentity) -> AssembledImage:
    return AssembledImage(path=output, identity=identity, raw_size_bytes=output.stat().st_size)


def flash_local(
    channel: str,
    device: str,
    architecture: Architecture,
    version: int,
    local: Sequence[LocalPart],
    *,
    gadget_folder: Path,
    output: Path,
    run: Run,
    work_folder: Path,
    size_bytes: int | None = None,
    options: Mapping[str, object] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    on_detail: Callable[[str], None] | None = None,
) -> AssembledImage:
    """The same without any server: all of the image is `local`, and only its version part is made here."""
    on_step(f"Installing {device}")
    paths = [part.path for part in local]
    scanned = scan(paths, run=run)
    check_modules(scanned, ", ".join(map(str, paths)))
    epoch = scanned.newest
    roles = {"ubuntu" if part.kind == "rootfs" else "raw-device": "local" for part in local}
    version_file = version_part(channel, device, version, roles, folder=work_folder, epoch=epoch)
    identity = ImageIdentity(channel=channel, device=device, version=version, architecture=architecture, epoch=epoch)
    return assemble(
        [*paths, version_file],
        gadget_folder,
        identity,
        output,
        run=run,
        work_folder=work_folder,
        size_bytes=size_bytes,
        on_step=on_detail,
        options={**(options or {}), **said(local)},
    )


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


def said(local: Sequence[LocalPart]) -> dict[str, str]:
    """What the record on the boot partition says of local parts; their presence there turns updates off."""
    return {f"{part.kind}-part": part.said for part in local}


def _replacing(name: str, local: Sequence[LocalPart]) -> LocalPart | None:
    return next((part for part in local if name.startswith(SERVER_PREFIXES[part.kind])), None)


def newest_mtime(tarball: Path) -> int:
    """Seconds, UTC: of the version tarball, when the version was made."""
    with tarfile.open(tarball) as tar:
        return max((int(member.mtime) for member in tar), default=0)
