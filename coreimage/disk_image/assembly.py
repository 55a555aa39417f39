"""From the tarballs of an image version to a bootable disk image file."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import IO

import structlog

from coreimage.disk_image import grub
from coreimage.disk_image.boot_files import boot_files, install_record
from coreimage.disk_image.filesystems import Mke2fs, empty_ext4, fill_ext4, make_fat, probe_mke2fs
from coreimage.disk_image.gadget import Gadget, Role, Structure, load_gadget
from coreimage.disk_image.holes import extents
from coreimage.disk_image.layout import DEFAULT_SIZE_GB, ImageIdentity, Layout, image_size_bytes, plan_layout
from coreimage.disk_image.payload import Contents, Sink, distribute
from coreimage.disk_image.table import write_raw, write_table
from coreimage.errors import BuildError, HostError, ProcessError
from coreimage.model import Value
from coreimage.process import Run, interruptible
from coreimage.tarball import read_by
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.disk_image")

_EXT4_OVERHEAD = 0.05
"""Inode tables (256 bytes per 16 KiB) and bitmaps, as part of a filesystem; the journal and reserve come on top."""
_JOURNAL_BYTES = 32 << 20
_FAT_RESERVE_BYTES = 8 << 20
_FILLED: tuple[tuple[Role, str], ...] = (("system-a", "system"), ("system-data", "writable"))
"""Filesystems that are made of what the tarballs have below a folder."""
_BESIDE = 2
_CHUNK_BYTES = 1 << 20


class AssembledImage(Value):
    """A raw image at `path`, sparse; `raw_size_bytes` counts its holes."""

    path: Path
    identity: ImageIdentity
    raw_size_bytes: int


def assemble(
    parts: Sequence[Path],
    gadget_folder: Path,
    identity: ImageIdentity,
    output: Path,
    *,
    run: Run,
    work_folder: Path,
    size_bytes: int | None = None,
    on_step: Callable[[str], None] | None = None,
    options: Mapping[str, object] | None = None,
) -> AssembledImage:
    """Makes a raw, sparse disk image at `output` (replaced whole) from tarballs applied in the given order.

    `options` is how the user wanted it, for the record on its boot partition. The same arguments give the same bytes,
    wherever and by whomever this runs. Raises HostError when `output` cannot be written or the disk is full,
    VerificationError for a hostile tarball, ConfigError for a bad gadget, BuildError
    when something does not fit; `output` is untouched then.
    """
    on_step = on_step or _quiet
    with (
        _writing(output, run) as image,
        workspace("assemble", parent=work_folder, run=run) as work,
        ThreadPoolExecutor(_BESIDE, "beside") as pool,
        interruptible(),
    ):
        gadget = load_gadget(gadget_folder)
        layout = plan_layout(gadget, size_bytes or image_size_bytes(DEFAULT_SIZE_GB))
        write_table(image, layout, identity)
        write_raw(image, gadget, gadget_folder, layout)
        mke2fs, slot_b = probe_mke2fs(work, run=run), layout.by_role("system-b")
        beside = [
            pool.submit(copy_context().run, partial(empty_ext4, image, slot_b, identity, mke2fs, run=run)),
            pool.submit(copy_context().run, partial(_embed_grub, image, gadget, layout, work, identity, run=run)),
        ]
        on_step("make the filesystems")
        with _filling(image, layout, identity, mke2fs=mke2fs, work=work, run=run) as archives:
            tree = work / "tree"
            _distribute(parts, archives, tree, layout, epoch=identity.epoch, run=run)
            on_step("fill the boot partition")
            record = install_record(identity, [part.name for part in parts], size_bytes, options or {})
            boot = boot_files(tree, gadget, gadget_folder, identity, record, work=work, run=run)
            make_fat(image, layout.by_role("system-boot"), boot, identity, work=work, run=run)
        for made in beside:
            made.result()
        return AssembledImage(path=output, identity=identity, raw_size_bytes=layout.size_bytes)


@contextmanager
def _filling(
    image: Path, layout: Layout, identity: ImageIdentity, *, mke2fs: Mke2fs, work: Path, run: Run
) -> Iterator[Mapping[str, Sink]]:
    """For each folder of the tarballs that becomes a filesystem, where to write the tarball of it. The filesystems are
    whole when the block is left."""

    def fill(role: Role, tarball: IO[bytes]) -> None:
        fill_ext4(image, layout.by_role(role), identity, tarball, mke2fs=mke2fs, work=work, run=run)

    with ExitStack() as stack:
        yield {root: _WhileRead(stack.enter_context(read_by(partial(fill, role)))) for role, root in _FILLED}


def _distribute(
    parts: Sequence[Path], archives: Mapping[str, Sink], tree: Path, layout: Layout, *, epoch: int, run: Run
) -> None:
    """What belongs to no filesystem with owners is below `tree` afterwards, and ours. Raises as `distribute`, and as
    `check_sizes` before anybody who was short of room is heard."""
    tree.mkdir()
    contents = Contents()
    with read_by(partial(_unpack, tree, run)) as rest:
        distribute(parts, archives, rest, contents, limit_bytes=layout.size_bytes, epoch=epoch, run=run)
    check_sizes(contents, layout)


def _unpack(tree: Path, run: Run, tarball: IO[bytes]) -> None:
    run(["tar", "--extract", "--no-same-owner", "--preserve-permissions", "--directory", tree], stdin=tarball)


class _WhileRead:
    """Takes what nobody reads any more, too: whoever stopped reading says why when it is asked for its result."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, content: bytes, /) -> None:
        if not self._file.closed:
            try:
                self._file.write(content)
            except BrokenPipeError:
                self.close()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._file.close()


def _quiet(step: str) -> None:
    log.debug("step", step=step)


def check_sizes(contents: Contents, layout: Layout) -> None:
    """Raises BuildError for the first filesystem that its content cannot fit on."""
    for root, partition in (("system", layout.by_role("system-a")), ("writable", layout.by_role("system-data"))):
        room = int(partition.size_bytes * (1 - _EXT4_OVERHEAD)) - _JOURNAL_BYTES
        _check_room(contents.size_bytes(root), room, partition.structure)
    kernels = sum(size for name, size in contents.files.items() if name.startswith("assets/"))
    boot = sum(size for name, size in contents.files.items() if name.startswith("boot/"))
    partition = layout.by_role("system-boot")
    _check_room(2 * kernels + boot, partition.size_bytes - _FAT_RESERVE_BYTES, partition.structure)


def _check_room(needed_bytes: int, room_bytes: int, structure: Structure) -> None:
    if needed_bytes > room_bytes:
        raise BuildError(
            f"the content needs {needed_bytes} bytes and {structure.name} has room for {room_bytes}",
            where=f"structure {structure.name}",
            resolution=f"make {structure.name} larger in meta/gadget.yaml, or the content smaller",
        )


def sparse_sha256(image: Path) -> str:
    """The digest of a file whose holes count as the zeros that they read as, and are not read."""
    digest = hashlib.sha256()
    for chunk in sparse_content(image):
        digest.update(chunk)
    return digest.hexdigest()


def sparse_content(image: Path) -> Iterator[memoryview]:
    """All bytes of a file, without reading its holes: the kernel would fill its cache with zeros for them."""
    zeros, buffer = memoryview(bytes(_CHUNK_BYTES)), memoryview(bytearray(_CHUNK_BYTES))
    with image.open("rb", buffering=0) as file:
        position, size = 0, os.fstat(file.fileno()).st_size
        for start, stop in (*extents(file.fileno()), (size, size)):
            for done in range(position, start, _CHUNK_BYTES):
                yield zeros[: start - done]
            position = file.seek(start)
            while position < stop:
                count = file.readinto(buffer[: stop - position])
                yield buffer[:count]
                position += count


@contextmanager
def _writing(output: Path, run: Run) -> Iterator[Path]:
    """A file beside `output`, which takes its place when the block succeeds and is gone otherwise."""
    try:
        with workspace("image", parent=output.absolute().parent, run=run) as folder:
            temporary = folder / output.name
            temporary.touch()
            temporary.chmod(0o644)
            yield temporary
            temporary.replace(output)
    except (OSError, ProcessError) as error:
        raise _explained(error, output) from error


def full_disk(error: OSError | ProcessError, output: Path) -> HostError | None:
    """What to tell when that is what it means, whoever of us or of the programs met it."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if not full and os.strerror(errno.ENOSPC) not in str(error):
        return None
    return HostError(
        "the disk is full", where=str(output), resolution="free some space, or name another output or TMPDIR"
    )


def _explained(error: OSError | ProcessError, output: Path) -> Exception:
    if full := full_disk(error, output):
        return full
    if isinstance(error, ProcessError) and "Could not allocate block" in str(error):
        return BuildError(
            "the content does not fit on its filesystem", where=str(output), resolution=f"enlarge it\n{error}"
        )
    if isinstance(error, OSError):
        return HostError(f"cannot be written: {error}", where=str(output), resolution="name another output file")
    return error


def _embed_grub(image: Path, gadget: Gadget, layout: Layout, work: Path, identity: ImageIdentity, *, run: Run) -> None:
    structure = gadget.by_role("bios-boot")
    if identity.architecture == "amd64" and structure and not structure.content:
        number = layout.by_role("system-boot").number
        core = grub.core_image(number, work / "core.img", identity.epoch, run=run)
        grub.embed(image, core, layout.by_role("bios-boot"), run=run)
