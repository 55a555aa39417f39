"""Making a raw disk image from a version of a channel or from local files, for `coreimage flash` and for the image
that a build boots and releases."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path

from coreimage.client import Image, ImageFile, Session
from coreimage.client.apply import ApplyPlan, InstallRequest, install
from coreimage.client.session import Each
from coreimage.disk_image import AssembledImage, CachedImages, ImageIdentity, assemble, image_key
from coreimage.host.process import Run
from coreimage.model import Architecture
from coreimage.operations.local_parts import SERVER_PREFIXES, LocalPart, check_modules, scan, version_part
from coreimage.system_image.web import client_errors

_DOWNLOADS_AT_ONCE = 4


@dataclass(frozen=True)
class ImageRecipe:
    """How an image is made, independent of its content."""

    gadget_folder: Path
    output: Path
    """The file that the raw image is written to; an existing file is replaced as a whole."""
    run: Run
    work_folder: Path
    size_bytes: int | None = None
    """None for the smallest size that the gadget and the content allow."""
    options: Mapping[str, object] = field(default_factory=dict)
    """The options of the user, for the record on the image's boot partition."""
    on_detail: Callable[[str], None] | None = None
    """Called with the text of each step of the assembly."""
    tools_tree: str | None = None
    """The digest of the tools tree that `run` starts programs from; None for the machine's own programs."""
    follow_links: bool = False
    """Whether members may go through symbolic links inside the tree, as in versions of the original server."""

    def assemble(
        self, files: Sequence[Path], identity: ImageIdentity, local: Sequence[LocalPart] = ()
    ) -> AssembledImage:
        """Assemble the image from tarballs, applied in the given order; `local` are those that nobody signed."""
        return assemble(
            files,
            self.gadget_folder,
            identity,
            self.output,
            run=self.run,
            work_folder=self.work_folder,
            size_bytes=self.size_bytes,
            on_step=self.on_detail,
            options=self._record(local),
            follow_links=self.follow_links,
        )

    def cache_key(self, image: Image, identity: ImageIdentity, local: Sequence[LocalPart] = ()) -> str:
        """Return the key of the image in a cache of finished ones.

        Args:
            image: The version; the digests of its files count.
            identity: The identity of the image with the epoch 0, since its own epoch follows from its files.
            local: Parts that replace those of the version; their digests count too.
        """
        parts = [f"{file.name} {file.sha256}" for file in image.files]
        facts = {"of": identity, "size": self.size_bytes, "options": self._record(local)}
        return image_key(parts, self.gadget_folder, facts, tools_tree=self.tools_tree)

    def _record(self, local: Sequence[LocalPart]) -> dict[str, object]:
        # A record that names local parts turns updates off.
        return {**self.options, **{f"{part.kind}-part": part.record for part in local}}


def flash(
    session: Session,
    channel: str,
    device: str,
    architecture: Architecture,
    recipe: ImageRecipe,
    *,
    revision: int = 0,
    local: Sequence[LocalPart] = (),
    on_step: Callable[[str], None] = lambda _: None,
    cancel: Callable[[], None] = lambda: None,
    cache: CachedImages | None = None,
) -> AssembledImage:
    """Make a raw image of a channel's version, with the whole chain of trust verified.

    Args:
        session: The tree that has the channel.
        channel: The whole name of the channel.
        device: A device of the channel.
        architecture: The architecture of the device.
        recipe: How the image is made.
        revision: The version; 0 is the newest, a negative number counts back from it.
        local: Files of this machine that replace those of the version.
        on_step: Called with a few lines about the progress, in the words of 2015.
        cancel: Called at the end; it ends downloads that still run.
        cache: The cached images: the same image is copied from there, and a new one is put there.

    Raises:
        VerificationError: Something is not signed as it should be, or has another digest.
        NotFoundError: The tree has no such channel, device or version.
        BuildError: Kernel and modules are of different builds, or the image cannot be assembled.
    """
    on_step("Fetching information from server...")
    with client_errors(), _several_at_once(cancel) as each:
        is_of_2015 = session.index(channel, device).channel is None
        target = _ImageTarget(architecture, replace(recipe, follow_links=is_of_2015), local, on_step, cache)
        install(
            session,
            InstallRequest(channel, device, revision=revision),
            target,
            recipe.work_folder / "parts",
            each=each,
            leave_out=lambda file: _local_part_for(file.name, local) is not None,
        )
    return target.result


class _ImageTarget:
    """A disk image that a full version is installed to.

    `result` exists once the client has called `apply`, or `holds` has found the image in the cache.
    """

    result: AssembledImage

    def __init__(
        self,
        architecture: Architecture,
        recipe: ImageRecipe,
        local: Sequence[LocalPart],
        on_step: Callable[[str], None],
        cache: CachedImages | None,
    ) -> None:
        self._architecture, self._recipe, self._local = architecture, recipe, local
        self._on_step, self._cache = on_step, cache

    def holds(self, request: InstallRequest, image: Image) -> bool:
        """Copy the image from the cache; return whether the cache had it."""
        self._on_step("Downloading and setting up...")
        output = self._recipe.output
        facts = self._cache.get(self._cache_key(request, image), output) if self._cache else None
        if facts is None:
            return False
        self._on_step(f"Installing {request.device}")
        identity = self._identity(request, image, epoch=facts.epoch)
        self.result = AssembledImage(path=output, identity=identity, raw_size_bytes=output.stat().st_size)
        return True

    def apply(self, plan: ApplyPlan) -> None:
        """Assemble the disk image of the one full version in the plan, and put it into the cache."""
        request, (verified,) = plan.request, plan.images
        files = with_local_parts(verified.image, verified.files, self._local)
        self._on_step(f"Installing {request.device}")
        if self._local:
            names = ", ".join(str(part.path) for part in self._local)
            check_modules(scan(files, run=self._recipe.run), names)
        identity = self._identity(request, verified.image, epoch=newest_mtime(files[-1]))
        self.result = self._recipe.assemble(files, identity, self._local)
        if self._cache:
            self._cache.put(self._cache_key(request, verified.image), self._recipe.output, identity.epoch)

    def _cache_key(self, request: InstallRequest, image: Image) -> str:
        return self._recipe.cache_key(image, self._identity(request, image, epoch=0), self._local)

    def _identity(self, request: InstallRequest, image: Image, *, epoch: int) -> ImageIdentity:
        return ImageIdentity(
            channel=request.channel,
            device=request.device,
            version=image.version,
            architecture=self._architecture,
            epoch=epoch,
        )


def flash_local(
    channel: str,
    device: str,
    architecture: Architecture,
    version: int,
    recipe: ImageRecipe,
    *,
    local: Sequence[LocalPart],
    on_step: Callable[[str], None] = lambda _: None,
) -> AssembledImage:
    """Make a raw image without any server, all of it of `local` parts; only the version part is made here.

    Raises:
        BuildError: Kernel and modules are of different builds; and what `assemble` raises.
    """
    on_step(f"Installing {device}")
    paths = [part.path for part in local]
    scanned = scan(paths, run=recipe.run)
    check_modules(scanned, ", ".join(map(str, paths)))
    roles = {"ubuntu" if part.kind == "rootfs" else "raw-device": "local" for part in local}
    version_file = version_part(channel, device, version, roles, folder=recipe.work_folder, epoch=scanned.newest)
    identity = ImageIdentity(
        channel=channel, device=device, version=version, architecture=architecture, epoch=scanned.newest
    )
    return recipe.assemble([*paths, version_file], identity, local)


def download_files(
    session: Session,
    channel: str,
    device: str,
    image: Image,
    folder: Path,
    *,
    cancel: Callable[[], None] = lambda: None,
) -> tuple[Path, ...]:
    """Download the verified files of a version into a folder, several at a time, and return them in their order."""
    folder.mkdir(exist_ok=True)
    with _several_at_once(cancel) as each:
        return session.download(channel, device, image, folder, each=each)


@contextmanager
def _several_at_once(cancel: Callable[[], None]) -> Iterator[Each]:
    executor = ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, thread_name_prefix="download")

    def each(function: Callable[[ImageFile], Path], files: Sequence[ImageFile], /) -> Iterable[Path]:
        futures = [executor.submit(copy_context().run, function, file) for file in files]
        return [future.result() for future in futures]

    try:
        yield each
    finally:
        # After an interrupt, nobody waits for a server that hangs.
        cancel()
        executor.shutdown(wait=False, cancel_futures=True)


def with_local_parts(image: Image, parts: Sequence[Path], local: Sequence[LocalPart]) -> list[Path]:
    """Return the parts in the image's order, each local one where the server's was, a new one before the last part."""
    by_name = {part.name: part for part in parts}
    left = list(local)
    files: list[Path] = []
    for file in image.files:
        replacement = _local_part_for(file.name, left)
        if replacement:
            left.remove(replacement)
            files.append(replacement.path)
        elif file.name in by_name:
            files.append(by_name[file.name])
    return [*files[:-1], *(part.path for part in left), *files[-1:]]


def _local_part_for(name: str, local: Sequence[LocalPart]) -> LocalPart | None:
    return next((part for part in local if name.startswith(SERVER_PREFIXES[part.kind])), None)


def newest_mtime(tarball: Path) -> int:
    """Return the newest mtime in a tarball, seconds, UTC; of a version tarball it is when the version was made."""
    with tarfile.open(tarball) as tar:
        return max((int(member.mtime) for member in tar), default=0)
