"""Filesystems inside a disk image file, made at their offset: no loop device, no mount, no root."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from coreimage.disk_image.layout import SECTOR_BYTES, ImageIdentity, Partition
from coreimage.errors import BuildError
from coreimage.process import Run, Sandbox

_ROOT_INODE = 2
_FIRST_INODE = 11
"""The first that is not reserved (ext4 on-disk format, "special inodes"): lost+found."""

# In the sandbox that unpacked it: owners, modes and file capabilities are right only for the ids that it maps.
_FILL = """
source=$1 epoch=$2; shift 2
mkdir -p "$source"
find "$source" -newermt "@$epoch" -exec touch --no-dereference --date "@$epoch" {} +
"$@"
rm -rf "$source"
"""


def fill_ext4(image: Path, partition: Partition, source: Path, identity: ImageIdentity, *, run: Run) -> None:
    """Makes a filesystem of what is below `source`, which is gone afterwards. No time in it is later than the epoch."""
    with _settings(identity, image.parent) as env:
        mkfs = mkfs_ext4(image, partition, identity, source)
        argv = ["sh", "-eu", "-c", _FILL, "fill", str(source), str(identity.epoch), *mkfs]
        run(argv, sandbox=Sandbox.ROOT, env=env)
    fix_times(image, partition, identity, run=run)


def empty_ext4(image: Path, partition: Partition, identity: ImageIdentity, *, run: Run) -> None:
    with _settings(identity, image.parent) as env:
        run(mkfs_ext4(image, partition, identity), env=env)
    fix_times(image, partition, identity, run=run)


def mkfs_ext4(image: Path, partition: Partition, identity: ImageIdentity, source: Path | None = None) -> list[str]:
    """The image is sparse and fresh, so inode tables and journal are zero already (`assume_storage_prezeroed`)."""
    label = partition.structure.filesystem_label
    extended = (
        f"offset={partition.offset_bytes},hash_seed={identity.uuid(f'hash/{label}')},root_owner=0:0,"
        "nodiscard,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1"
    )
    content = ["-d", str(source)] if source else []
    blocks = f"{partition.size_bytes // 1024}k"
    fixed = ["-q", "-F", "-t", "ext4", "-L", label, "-U", str(identity.uuid(f"filesystem/{label}")), "-E", extended]
    return ["mke2fs", *fixed, *content, str(image), blocks]


def fix_times(image: Path, partition: Partition, identity: ImageIdentity, *, run: Run) -> None:
    """Sets the times that e2fsprogs before 1.47.1 takes from the build; later releases honour SOURCE_DATE_EPOCH."""
    if honours_epoch(run(["mke2fs", "-V"]).output):
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
    image: Path, partition: Partition, content: Mapping[str, Path | None], identity: ImageIdentity, *, run: Run
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
    for name, source in sorted(content.items()):
        if source is not None:
            os.utime(source, (identity.epoch, identity.epoch))
            run(["mcopy", "-m", "-i", place, source, f"::{name}"], env=env)


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
