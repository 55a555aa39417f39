"""Writing files to the filesystem `writable` of an image, without mounting it.

On that filesystem, as the image's initramfs mounts it, `user-data` is /home, `system-data/<path>` any other persistent
path, and `overlays/etc/upper` what /etc has on top of the image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coreimage.disk_image.filesystems import debugfs
from coreimage.disk_image.table import read_partitions
from coreimage.errors import BuildError
from coreimage.host.process import Run

ETC = "overlays/etc/upper"
HOMES = "user-data"


@dataclass(frozen=True)
class SeedFile:
    """A file to be written, a symbolic link to `link`, or a folder when it has neither content nor link.

    `path` is relative to the root of `writable`, `mode` as in chmod.
    """

    path: str
    content: bytes | None
    mode: int
    uid: int = 0
    gid: int = 0
    link: str = ""


def with_parents(files: Sequence[SeedFile]) -> tuple[SeedFile, ...]:
    """Add the folders that files need, and sort: parents come before their content."""
    named = {file.path for file in files}
    parents = {str(parent) for file in files for parent in PurePosixPath(file.path).parents} - named - {"."}
    folders = [SeedFile(parent, None, 0o755) for parent in parents]
    return tuple(sorted([*folders, *files], key=lambda file: file.path))


def writable_place(image: Path) -> str:
    """Return where the filesystem `writable` of a raw image is, as debugfs names it.

    Raises:
        BuildError: The image has no such partition.
    """
    writable = next((entry for entry in read_partitions(image) if entry.name == "writable"), None)
    if writable is None:
        raise BuildError("has no partition called writable", where=str(image), resolution="is this one of our images?")
    return f"{image}?offset={writable.offset_bytes}"


def write_seed(place: str, files: Sequence[SeedFile], epoch: int, *, run: Run, work_folder: Path) -> None:
    """Write files to the filesystem at `place`. Folders that exist already stay as they are.

    Raises:
        BuildError: debugfs cannot write one of them.
    """
    wanted = with_parents(files)
    folders = [file.path for file in wanted if file.content is None and not file.link]
    existing = existing_paths(place, folders, run=run)
    with tempfile.TemporaryDirectory(prefix="seed-", dir=work_folder) as folder:
        commands = _debugfs_commands([file for file in wanted if file.path not in existing], Path(folder))
        debugfs(place, commands, epoch, run=run)


def existing_paths(place: str, paths: Sequence[str], *, run: Run) -> set[str]:
    """Return those of the paths that exist on the filesystem at `place`."""
    commands = "".join(f'stat "/{path}"\n' for path in paths)
    answers = run(["debugfs", "-f", "-", place], stdin=commands.encode()).output.split("debugfs: stat ")[1:]
    return {path for path, answer in zip(paths, answers, strict=True) if "\nInode:" in answer}


def _debugfs_commands(files: Sequence[SeedFile], folder: Path) -> str:
    """Return the batch that writes files, whose contents are put into `folder` for it."""
    lines = []
    for number, file in enumerate(files):
        path = f'"/{file.path}"'
        if file.link:
            lines.append(f'symlink {path} "{file.link}"')
            continue
        if file.content is None:
            lines.append(f"mkdir {path}")
        else:
            source = folder / str(number)
            source.write_bytes(file.content)
            lines.append(f"write {source} {path}")
        kind = 0o040000 if file.content is None else 0o100000
        fields = {"mode": f"0{kind | file.mode:o}", "uid": file.uid, "gid": file.gid}
        lines += [f"set_inode_field {path} {field} {value}" for field, value in fields.items()]
    return "".join(f"{line}\n" for line in lines)
