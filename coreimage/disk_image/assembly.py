"""From the tarballs of an image version to a bootable disk image file."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

import structlog

from coreimage.disk_image import filesystems, grub
from coreimage.disk_image.boot_files import boot_files, install_record
from coreimage.disk_image.gadget import Gadget, Role, Structure, load_gadget
from coreimage.disk_image.holes import extents
from coreimage.disk_image.layout import DEFAULT_SIZE_GB, ImageIdentity, Layout, image_size_bytes, plan_layout
from coreimage.disk_image.payload import Contents, unpack
from coreimage.disk_image.table import write_raw, write_table
from coreimage.errors import BuildError, HostError, ProcessError
from coreimage.model import Value
from coreimage.process import Run, interruptible
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.disk_image")

_EXT4_OVERHEAD = 0.05
"""Inode tables (256 bytes per 16 KiB) and bitmaps, as part of a filesystem; the journal and reserve come on top."""
_JOURNAL_BYTES = 32 << 20
_FAT_RESERVE_BYTES = 8 << 20
_FILLED: tuple[tuple[Role, str], ...] = (("system-a", "system"), ("system-data", "writable"))
"""Filesystems that are made of what the tarballs have below a folder."""
_MKFS_AT_ONCE = 2
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
        ThreadPoolExecutor(_MKFS_AT_ONCE, "mkfs") as pool,
        interruptible(),
    ):
        gadget = load_gadget(gadget_folder)
        layout = plan_layout(gadget, size_bytes or image_size_bytes(DEFAULT_SIZE_GB))
        write_table(image, layout, identity)
        write_raw(image, gadget, gadget_folder, layout)
        slot_b = layout.by_role("system-b")
        filling = [pool.submit(copy_context().run, filesystems.empty_ext4, image, slot_b, identity, run=run)]
        on_step("unpack the tarballs")
        tree = work / "tree"
        tree.mkdir()
        check_sizes(unpack(parts, tree, layout.size_bytes, run=run), layout)
        on_step("make the filesystems")
        for role, root in _FILLED:
            partition = layout.by_role(role)
            filling.append(
                pool.submit(copy_context().run, filesystems.fill_ext4, image, partition, tree / root, identity, run=run)
            )
        record = install_record(identity, [part.name for part in parts], size_bytes, options or {})
        boot = boot_files(tree, gadget, gadget_folder, identity, record, work=work, run=run)
        filesystems.make_fat(image, layout.by_role("system-boot"), boot, identity, run=run)
        _embed_grub(image, gadget, layout, work, identity, run=run)
        for filled in filling:
            filled.result()
        return AssembledImage(path=output, identity=identity, raw_size_bytes=layout.size_bytes)


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
