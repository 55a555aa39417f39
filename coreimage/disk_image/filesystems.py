"""Filesystems inside a disk image file, made at their offset: no loop device, no mount, no root.

What goes on them is decided in `payload` and `boot_files`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

from coreimage.disk_image.gadget.structure import SECTOR_BYTES
from coreimage.disk_image.layout import ImageIdentity, Partition
from coreimage.errors import BuildError
from coreimage.host.process import Run
from coreimage.host.sandbox import Sandbox

_EMPTY_TARBALL = bytes(10240)
_EPOCH_SINCE = (1, 47, 1)
"""The release of e2fsprogs whose mke2fs sets every inode's times to SOURCE_DATE_EPOCH, and reads tarballs."""
_ROOT_INODE = 2
_FIRST_INODE = 11
"""The first that is not reserved (ext4 on-disk format, "special inodes"): lost+found."""

# In one sandbox: owners, modes and file capabilities are right only for the ids that it maps.
_FILL = """
umask 022
source=$1; shift
mkdir "$source"
tar --extract --numeric-owner --same-owner --preserve-permissions --delay-directory-restore \\
    --xattrs --xattrs-include='*' --directory "$source"
"$@"
rm -rf "$source"
"""


class Mke2fs(NamedTuple):
    """What the mke2fs that `run` starts can do. Reading tarballs also takes a libarchive beside it."""

    honours_epoch: bool
    reads_tarballs: bool


def probe_mke2fs(work: Path, *, run: Run) -> Mke2fs:
    """Find out what mke2fs can do, by making a filesystem of an empty tarball."""
    argv = [*("mke2fs", "-q", "-F", "-t", "ext2", "-d", "-"), str(work / "probe.img"), "1M"]
    if run(argv, stdin=_EMPTY_TARBALL, accept=(0, 1)).status == 0:
        return Mke2fs(honours_epoch=True, reads_tarballs=True)
    return Mke2fs(honours_epoch=honours_epoch(run(["mke2fs", "-V"]).output), reads_tarballs=False)


def honours_epoch(version: str) -> bool:
    """Return whether a mke2fs sets all times to SOURCE_DATE_EPOCH, by its version (`mke2fs 1.47.2 (1-Jan-2025)`)."""
    match = re.search(r"mke2fs (\d+)\.(\d+)\.(\d+)", version)
    return match is not None and tuple(int(number) for number in match.groups()) >= _EPOCH_SINCE


def make_ext4(
    image: Path,
    partition: Partition,
    identity: ImageIdentity,
    tarball: IO[bytes],
    *,
    mke2fs: Mke2fs,
    work: Path,
    run: Run,
) -> None:
    """Make an ext4 filesystem of a tarball, with the times of the tarball.

    A mke2fs that cannot read tarballs gets it unpacked, in a folder of `work` that is gone afterwards.
    """
    with _mke2fs_environment(identity, image.parent) as env:
        if mke2fs.reads_tarballs:
            run(_mke2fs_argv(image, partition, identity, source="-"), stdin=tarball, env=env)
        else:
            source = str(work / partition.structure.name)
            fill = ["sh", "-eu", "-c", _FILL, "fill", source, *_mke2fs_argv(image, partition, identity, source=source)]
            run(fill, sandbox=Sandbox.ROOT, stdin=tarball, env=env)
    _set_times(image, partition, identity, mke2fs, run=run)


def make_empty_ext4(image: Path, partition: Partition, identity: ImageIdentity, *, mke2fs: Mke2fs, run: Run) -> None:
    """Make an ext4 filesystem with nothing on it."""
    with _mke2fs_environment(identity, image.parent) as env:
        run(_mke2fs_argv(image, partition, identity), env=env)
    _set_times(image, partition, identity, mke2fs, run=run)


def _mke2fs_argv(image: Path, partition: Partition, identity: ImageIdentity, source: str = "") -> list[str]:
    label = partition.structure.filesystem_label
    # The image is sparse and fresh, so inode tables and journal are zero already.
    extended = (
        f"offset={partition.offset_bytes},hash_seed={identity.uuid(f'hash/{label}')},root_owner=0:0,"
        "nodiscard,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1"
    )
    fixed = ["-q", "-F", "-t", "ext4", "-L", label, "-U", str(identity.uuid(f"filesystem/{label}")), "-E", extended]
    content = ["-d", source] if source else []
    return ["mke2fs", *fixed, *content, str(image), f"{partition.size_bytes // 1024}k"]


@contextmanager
def _mke2fs_environment(identity: ImageIdentity, folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which mke2fs makes the same bytes each time."""
    epoch = str(identity.epoch)
    content = (files("coreimage.disk_image") / "files" / "mke2fs.conf").read_bytes()
    # A copy: our own files may be below /usr, where tools of another tree do not look.
    with tempfile.NamedTemporaryFile(prefix="mke2fs-", suffix=".conf", dir=folder) as file:
        file.write(content)
        file.flush()
        yield {"MKE2FS_CONFIG": file.name, "E2FSPROGS_FAKE_TIME": epoch, "SOURCE_DATE_EPOCH": epoch}


def _set_times(image: Path, partition: Partition, identity: ImageIdentity, mke2fs: Mke2fs, *, run: Run) -> None:
    """Set the times that an older mke2fs takes from the clock."""
    if mke2fs.honours_epoch:
        return
    place = f"{image}?offset={partition.offset_bytes}"
    commands = "".join(
        f"set_inode_field <{inode}> {field} @{identity.epoch}\n"
        for inode in used_inodes(run(["dumpe2fs", place]).output)
        for field in ("atime", "ctime", "crtime")
    )
    debugfs(place, commands, identity.epoch, run=run)


def used_inodes(dump: str) -> Iterator[int]:
    """Return the inodes in use, from what dumpe2fs prints of each group's free ones (`Free inodes: 13-8192, 9000`)."""
    count = re.search(r"^Inode count:\s+(\d+)", dump, re.MULTILINE)
    if not count:
        raise BuildError("dumpe2fs gives no inode count", resolution="report this with the version of e2fsprogs")
    free: set[int] = set()
    for ranges in re.findall(r"^\s+Free inodes: (.*)$", dump, re.MULTILINE):
        for start, stop in re.findall(r"(\d+)(?:-(\d+))?", ranges):
            free.update(range(int(start), int(stop or start) + 1))
    yield _ROOT_INODE
    yield from (inode for inode in range(_FIRST_INODE, int(count[1]) + 1) if inode not in free)


def debugfs(place: str, commands: str, epoch: int, *, run: Run) -> None:
    """Run a batch of debugfs commands that write.

    Args:
        place: The filesystem, as debugfs names it: a file, or `FILE?offset=BYTES`.
        commands: One a line.
        epoch: Seconds, UTC: the time of whatever is made.
        run: Starts programs.

    Raises:
        BuildError: debugfs complains, whose status is always 0.
    """
    env = {"E2FSPROGS_FAKE_TIME": str(epoch), "DEBUGFS_PAGER": "cat"}
    output = run(["debugfs", "-w", "-f", "-", place], stdin=commands.encode(), env=env).output
    expected = ("debugfs:", "debugfs 1", "Allocated inode:")
    complaints = [line for line in output.splitlines() if line.strip() and not line.startswith(expected)]
    if complaints:
        raise BuildError(f"debugfs: {complaints[0]}", where=place)


def make_fat(
    image: Path,
    partition: Partition,
    content: Mapping[str, Path | None],
    identity: ImageIdentity,
    *,
    work: Path,
    run: Run,
) -> None:
    """Make a FAT32 filesystem.

    Args:
        image: The disk image.
        partition: Where on it.
        content: Path on the filesystem to the file that goes there, or to None for an empty folder. The files' times
            are set to the epoch.
        identity: What the image is of.
        work: A folder for files on the way.
        run: Starts programs.
    """
    place = f"{image}@@{partition.offset_bytes}"
    env = {"SOURCE_DATE_EPOCH": str(identity.epoch), "MTOOLS_SKIP_CHECK": "1"}
    ids = ["-i", identity.uuid("filesystem/system-boot").hex[:8], "-n", partition.structure.filesystem_label]
    sectors = ["-h", str(partition.first), "-S", str(SECTOR_BYTES), f"--offset={partition.first}"]
    run(["mkfs.vfat", "--invariant", "-F", "32", *ids, *sectors, str(image), str(partition.size_bytes // 1024)])
    folders = {str(parent) for name in content for parent in Path(name).parents if str(parent) != "."}
    empty = {name for name, source in content.items() if source is None}
    run(["mmd", "-i", place, *(f"::{folder}" for folder in sorted(folders | empty))], env=env)
    named = [(Path(name), source) for name, source in sorted(content.items()) if source]
    with tempfile.TemporaryDirectory(prefix="fat-", dir=work) as links:
        # mcopy takes many files of a folder at a time, but each under its own name: so it gets links.
        for path, source in named:
            os.utime(source, (identity.epoch, identity.epoch))
            link = links / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.absolute())
        for folder, paths in groupby(sorted(path for path, _ in named), lambda path: path.parent):
            run(["mcopy", "-m", "-i", place, *(links / path for path in paths), f"::{folder}"], env=env)
