"""Filesystems inside a disk image file, made at their offset: no loop device, no mount, no root."""

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

from coreimage.disk_image.layout import SECTOR_BYTES, ImageIdentity, Partition
from coreimage.errors import BuildError
from coreimage.process import Run, Sandbox

_EMPTY_TARBALL_BYTES = 10240
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
    """What the mke2fs can do that `run` starts. Releases from 1.47.1 on read tarballs, if there is a libarchive."""

    honours_epoch: bool
    reads_tarballs: bool


def probe_mke2fs(work: Path, *, run: Run) -> Mke2fs:
    """By making a filesystem of an empty tarball."""
    probe = [*("mke2fs", "-q", "-F", "-t", "ext2", "-d", "-"), str(work / "probe.img"), "1M"]
    if run(probe, stdin=bytes(_EMPTY_TARBALL_BYTES), accept=(0, 1)).status == 0:
        return Mke2fs(honours_epoch=True, reads_tarballs=True)
    return Mke2fs(honours_epoch=honours_epoch(run(["mke2fs", "-V"]).output), reads_tarballs=False)


def fill_ext4(
    image: Path,
    partition: Partition,
    identity: ImageIdentity,
    tarball: IO[bytes],
    *,
    mke2fs: Mke2fs,
    work: Path,
    run: Run,
) -> None:
    """Makes a filesystem of a tarball, whose times get into it. For a mke2fs that cannot read it, it is unpacked."""
    source = work / partition.structure.name
    with _settings(identity, image.parent) as env:
        if mke2fs.reads_tarballs:
            run(mkfs_ext4(image, partition, identity, "-"), stdin=tarball, env=env)
        else:
            made = ["sh", "-eu", "-c", _FILL, "fill", str(source), *mkfs_ext4(image, partition, identity, str(source))]
            run(made, sandbox=Sandbox.ROOT, stdin=tarball, env=env)
    fix_times(image, partition, identity, mke2fs, run=run)


def empty_ext4(image: Path, partition: Partition, identity: ImageIdentity, mke2fs: Mke2fs, *, run: Run) -> None:
    with _settings(identity, image.parent) as env:
        run(mkfs_ext4(image, partition, identity), env=env)
    fix_times(image, partition, identity, mke2fs, run=run)


def mkfs_ext4(image: Path, partition: Partition, identity: ImageIdentity, source: str = "") -> list[str]:
    """The image is sparse and fresh, so inode tables and journal are zero already (`assume_storage_prezeroed`)."""
    label = partition.structure.filesystem_label
    extended = (
        f"offset={partition.offset_bytes},hash_seed={identity.uuid(f'hash/{label}')},root_owner=0:0,"
        "nodiscard,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1"
    )
    content = ["-d", source] if source else []
    blocks = f"{partition.size_bytes // 1024}k"
    fixed = ["-q", "-F", "-t", "ext4", "-L", label, "-U", str(identity.uuid(f"filesystem/{label}")), "-E", extended]
    return ["mke2fs", *fixed, *content, str(image), blocks]


def fix_times(image: Path, partition: Partition, identity: ImageIdentity, mke2fs: Mke2fs, *, run: Run) -> None:
    """Sets the times that e2fsprogs before 1.47.1 takes from the build; later releases honour SOURCE_DATE_EPOCH."""
    if mke2fs.honours_epoch:
        return
    place = f"{image}?offset={partition.offset_bytes}"
    used = used_inodes(run(["dumpe2fs", place]).output)
    commands = "".join(
        f"set_inode_field <{inode}> {field} @{identity.epoch}\n"
        for inode in used
        for field in ("atime", "ctime", "crtime")
    )
    debugfs(place, commands, identity.epoch, run=run)


def honours_epoch(version: str) -> bool:
    """Whether this mke2fs (`mke2fs 1.47.2 (1-Jan-2025)`) sets every inode's times to SOURCE_DATE_EPOCH."""
    found = re.search(r"mke2fs (\d+)\.(\d+)\.(\d+)", version)
    return found is not None and tuple(int(number) for number in found.groups()) >= (1, 47, 1)


def debugfs(place: str, commands: str, epoch: int, *, run: Run) -> str:
    """Runs a batch of writing commands. Raises BuildError with what it complains about: its status is always 0."""
    env = {"E2FSPROGS_FAKE_TIME": str(epoch), "DEBUGFS_PAGER": "cat"}
    output = run(["debugfs", "-w", "-f", "-", place], stdin=commands.encode(), env=env).output
    complaints = [
        line
        for line in output.splitlines()
        if not line.startswith(("debugfs:", "debugfs 1", "Allocated inode:")) and line.strip()
    ]
    if complaints:
        raise BuildError(f"debugfs: {complaints[0]}", where=place)
    return output


def used_inodes(dump: str) -> Iterator[int]:
    """The inodes in use, from what dumpe2fs prints of each group's free ones (`Free inodes: 13-8192, 9000`)."""
    found = re.search(r"^Inode count:\s+(\d+)", dump, re.MULTILINE)
    if not found:
        raise BuildError("dumpe2fs gives no inode count", resolution="report this with the version of e2fsprogs")
    free: set[int] = set()
    for ranges in re.findall(r"^\s+Free inodes: (.*)$", dump, re.MULTILINE):
        for start, stop in re.findall(r"(\d+)(?:-(\d+))?", ranges):
            free.update(range(int(start), int(stop or start) + 1))
    yield _ROOT_INODE
    yield from (inode for inode in range(_FIRST_INODE, int(found[1]) + 1) if inode not in free)


def make_fat(
    image: Path,
    partition: Partition,
    content: Mapping[str, Path | None],
    identity: ImageIdentity,
    *,
    work: Path,
    run: Run,
) -> None:
    """FAT32 with `content`: path on the filesystem to a file, or to None for an empty folder."""
    volume_id = identity.uuid("filesystem/system-boot").hex[:8]
    label = partition.structure.filesystem_label
    place = f"{image}@@{partition.offset_bytes}"
    env = {"SOURCE_DATE_EPOCH": str(identity.epoch), "MTOOLS_SKIP_CHECK": "1"}
    format_ = ["mkfs.vfat", "--invariant", "-F", "32", "-i", volume_id, "-n", label]
    sectors = [f"--offset={partition.first}", str(image), str(partition.size_bytes // 1024)]
    run([*format_, "-h", str(partition.first), "-S", str(SECTOR_BYTES), *sectors])
    folders = sorted({str(parent) for name in content for parent in Path(name).parents if str(parent) != "."})
    empty = sorted(name for name, source in content.items() if source is None)
    run(["mmd", "-i", place, *(f"::{folder}" for folder in sorted({*folders, *empty}))], env=env)
    with tempfile.TemporaryDirectory(prefix="fat-", dir=work) as named:
        for folder, paths in _named(
            {name: path for name, path in content.items() if path}, Path(named), identity.epoch
        ):
            run(["mcopy", "-m", "-i", place, *paths, f"::{folder}"], env=env)


def _named(content: Mapping[str, Path], work: Path, epoch: int) -> Iterator[tuple[str, list[Path]]]:
    """For each folder the files that go there, sorted, as links of the right names: mcopy takes many at a time."""
    for folder, names in groupby(sorted(content, key=lambda name: (_folder(name), name)), _folder):
        paths = [work / name for name in names]
        for path in paths:
            source = content[path.relative_to(work).as_posix()]
            os.utime(source, (epoch, epoch))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(source.absolute())
        yield folder, paths


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


@contextmanager
def _settings(identity: ImageIdentity, folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which mke2fs makes the same bytes each time."""
    epoch = str(identity.epoch)
    content = (files("coreimage.disk_image") / "files" / "mke2fs.conf").read_bytes()
    # A copy: our own files may be below /usr, where tools of another tree do not look.
    handle, name = tempfile.mkstemp(prefix="mke2fs-", suffix=".conf", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        yield {"MKE2FS_CONFIG": name, "E2FSPROGS_FAKE_TIME": epoch, "SOURCE_DATE_EPOCH": epoch}
    finally:
        Path(name).unlink(missing_ok=True)
