"""From the tarballs of an image version to a bootable disk image file: the story that the rest of the room serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import IO

import structlog

from coreimage.architecture.facts import FACTS
from coreimage.disk_image.boot_files import boot_files
from coreimage.disk_image.boot_loaders import embed_bios_grub
from coreimage.disk_image.filesystems import make_empty_ext4, make_ext4, make_fat, probe_mke2fs
from coreimage.disk_image.gadget.loading import load_gadget
from coreimage.disk_image.gadget.structure import Gadget, Role, Structure
from coreimage.disk_image.install_record import install_record
from coreimage.disk_image.layout import DEFAULT_SIZE_GB, ImageIdentity, Layout, image_size_bytes, plan_layout
from coreimage.disk_image.payload import distribute
from coreimage.disk_image.table import write_raw, write_table
from coreimage.errors import BuildError, HostError, ProcessError
from coreimage.host.children import interruptible
from coreimage.host.disk_space import disk_full
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.model import Value
from coreimage.tarball import Contents, read_by

log = structlog.get_logger("coreimage.disk_image")

FREE_OUTPUT_SPACE = "free some space, or name another output or TMPDIR"
_EXT4_OVERHEAD = 0.05
"""Inode tables (256 bytes per 16 KiB) and bitmaps, as part of a filesystem; the journal and reserve come on top."""
_BLOCK_BYTES, _INODE_BYTES = 4096, 256
_JOURNAL_BYTES = 32 << 20
_FAT_RESERVE_BYTES = 8 << 20
_FILLED: tuple[tuple[Role, str], ...] = (("system-a", "system"), ("system-data", "writable"))
"""The filesystems that are made of what the tarballs have below a root."""


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
    follow_links: bool = False,
) -> AssembledImage:
    """Make a disk image of tarballs. The same arguments give the same bytes, wherever and by whomever this runs.

    Args:
        parts: The tarballs, in the order in which they are applied.
        gadget_folder: The gadget.
        identity: What the image is of.
        output: Where the raw, sparse image is written. It is replaced whole, and untouched when this fails.
        run: Starts programs.
        work_folder: For files on the way, which are gone afterwards.
        size_bytes: The size of the disk; that of a card of 4 GB if not given.
        on_step: Is told each step.
        options: What else the user asked for, for the install record.
        follow_links: See `distribute`.

    Raises:
        HostError: `output` cannot be written, or the disk is full.
        VerificationError: A tarball is damaged or hostile.
        ConfigError: The gadget is not valid.
        BuildError: Something does not fit, or the tarballs have no kernel.
    """
    on_step = on_step or (lambda step: log.debug("step", step=step))
    with (
        _writing(output, run) as image,
        workspace("assemble", parent=work_folder, run=run) as work,
        ThreadPoolExecutor(2, "assemble") as executor,
        interruptible(),
    ):
        gadget = load_gadget(gadget_folder)
        layout = plan_layout(gadget, size_bytes or image_size_bytes(DEFAULT_SIZE_GB))
        write_table(image, layout, identity)
        write_raw(image, gadget, gadget_folder, layout)
        mke2fs = probe_mke2fs(work, run=run)
        slot_b = partial(make_empty_ext4, image, layout.by_role("system-b"), identity, mke2fs=mke2fs, run=run)
        boot_loader = partial(_embed_grub, image, gadget, layout, identity, work=work, run=run)
        beside = [executor.submit(copy_context().run, job) for job in (slot_b, boot_loader)]

        def fill(role: Role, tarball: IO[bytes]) -> None:
            make_ext4(image, layout.by_role(role), identity, tarball, mke2fs=mke2fs, work=work, run=run)

        on_step("make the filesystems")
        tree = work / "tree"
        with ExitStack() as filesystems:
            # Each is made while its tarball is written, and is whole when the stack is left.
            sinks = {
                root: _Abandonable(filesystems.enter_context(read_by(partial(fill, role)))) for role, root in _FILLED
            }
            tar = ["tar", "--extract", "--no-same-owner", "--preserve-permissions", "--directory", str(tree)]
            tree.mkdir()
            with read_by(lambda tarball: run(tar, stdin=tarball)) as rest:
                contents = distribute(
                    parts,
                    sinks,
                    rest,
                    limit_bytes=layout.size_bytes,
                    epoch=identity.epoch,
                    run=run,
                    follow_links=follow_links,
                )
            # Before the filesystems are waited for: those would only say that they had no room.
            check_sizes(contents, layout)
            on_step("fill the boot partition")
            record = install_record(identity, [part.name for part in parts], size_bytes, options or {})
            files = boot_files(tree, gadget, gadget_folder, identity, record, work=work, run=run)
            make_fat(image, layout.by_role("system-boot"), files, identity, work=work, run=run)
        for future in beside:
            future.result()
        return AssembledImage(path=output, identity=identity, raw_size_bytes=layout.size_bytes)


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
        if full := disk_full(error, str(output), resolution=FREE_OUTPUT_SPACE):
            raise full from error
        if isinstance(error, ProcessError):
            if "Could not allocate block" not in str(error):
                raise
            raise BuildError(
                "the content does not fit on its filesystem", where=str(output), resolution=f"enlarge it\n{error}"
            ) from error
        raise HostError(
            f"cannot be written: {error}", where=str(output), resolution="name another output file"
        ) from error


def _embed_grub(image: Path, gadget: Gadget, layout: Layout, identity: ImageIdentity, *, work: Path, run: Run) -> None:
    """Embed a GRUB for BIOS where the architecture has a BIOS, and the gadget has a place for it that is empty."""
    grub, structure = FACTS[identity.architecture].bios_grub, gadget.by_role("bios-boot")
    if grub and structure and not structure.content:
        number = layout.by_role("system-boot").number
        embed_bios_grub(image, grub, layout.by_role("bios-boot"), number, identity.epoch, work=work, run=run)


class _Abandonable:
    """A pipe that may be written after its reader has stopped, who says why when it is asked for its result."""

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


def check_sizes(contents: Contents, layout: Layout) -> None:
    """Check that the tarballs fit on their filesystems, and two kernels on the boot partition.

    Raises:
        BuildError: The first filesystem that is too small, with both sizes.
    """
    for role, root in _FILLED:
        partition = layout.by_role(role)
        room_bytes = int(partition.size_bytes * (1 - _EXT4_OVERHEAD)) - _JOURNAL_BYTES
        _check_room(_ext4_bytes(contents, root), room_bytes, partition.structure)
    kernel_bytes = sum(size for name, size in contents.files.items() if name.startswith("assets/"))
    boot_bytes = sum(size for name, size in contents.files.items() if name.startswith("boot/"))
    partition = layout.by_role("system-boot")
    _check_room(2 * kernel_bytes + boot_bytes, partition.size_bytes - _FAT_RESERVE_BYTES, partition.structure)


def _ext4_bytes(contents: Contents, root: str) -> int:
    """Return what an ext4 filesystem needs for everything below `root`: whole blocks, one inode and name each."""
    inside = f"{root}/"
    blocks = sum(-(-size // _BLOCK_BYTES) for name, size in contents.files.items() if name.startswith(inside))
    folders = sum(name.startswith(inside) for name in contents.folders)
    inodes = folders + sum(name.startswith(inside) for name in (*contents.files, *contents.links))
    return (blocks + folders) * _BLOCK_BYTES + inodes * _INODE_BYTES


def _check_room(needed_bytes: int, room_bytes: int, structure: Structure) -> None:
    if needed_bytes > room_bytes:
        raise BuildError(
            f"the content needs {needed_bytes} bytes and {structure.name} has room for {room_bytes}",
            where=f"structure {structure.name}",
            resolution=f"make {structure.name} larger in meta/gadget.yaml, or the content smaller",
        )
