"""The tarballs of an image version: what is in them, checked before anything is unpacked.

The first part of a member's name says where it goes (2015's convention): `system/` to slot a, `writable/` and `boot/`
to those filesystems; `assets/` and `hardware.yaml` hold the kernel. Later tarballs overwrite earlier ones.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coreimage.errors import BuildError, VerificationError
from coreimage.process import Run

ROOTS = ("system", "writable", "boot", "assets", "hardware.yaml")
_DECOMPRESSORS = {b"\xfd7zXZ\0": ("xz", "-dc", "-T0"), b"\x1f\x8b": ("gzip", "-dc")}
_BLOCK_BYTES = 4096
_INODE_BYTES = 256


@dataclass
class Contents:
    """What the tarballs amount to once unpacked over each other. Keys are names in the tarballs."""

    folders: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    files: dict[str, int] = field(default_factory=dict)

    def size_bytes(self, root: str) -> int:
        """What an ext4 filesystem needs for everything below `root`: whole blocks, one inode and name each."""
        inside = f"{root}/"
        blocks = sum(-(-size // _BLOCK_BYTES) for name, size in self.files.items() if name.startswith(inside))
        folders = sum(name.startswith(inside) for name in self.folders)
        inodes = folders + sum(name.startswith(inside) for name in (*self.files, *self.links))
        return (blocks + folders) * _BLOCK_BYTES + inodes * _INODE_BYTES


def unpacked_tar(part: Path, target: Path, limit_bytes: int, *, run: Run) -> Path:
    """Decompresses a tarball: xz or gzip, told by its first bytes, or plain. Raises BuildError beyond `limit_bytes`."""
    with part.open("rb") as file:
        magic = file.read(6)
    decompressor = next((argv for start, argv in _DECOMPRESSORS.items() if magic.startswith(start)), None)
    if decompressor is None:
        return part
    bounded = ["prlimit", f"--fsize={limit_bytes}", *decompressor, str(part)]
    with target.open("wb") as file:
        done = run(bounded, stdout=file, accept=(0, 1, 2, -25, 128 + 25))
    if target.stat().st_size >= limit_bytes:
        raise BuildError(
            f"unpacks to more than the {limit_bytes} bytes of the whole disk",
            where=str(part),
            resolution="make the image larger (--size), or look at what is in this tarball",
        )
    if done.status:
        raise VerificationError(
            f"is damaged: {done.output.strip()}", where=str(part), resolution="download it again: delete this file"
        )
    return target


def read_contents(tars: Sequence[tuple[str, Path]]) -> Contents:
    """Reads all headers of `(name for messages, plain tar)`. Raises VerificationError for a member that would leave
    the tree, write through a link, or make a device."""
    contents = Contents()
    for name, path in tars:
        try:
            with tarfile.open(path, "r:") as tar:
                _add(contents, tar, name)
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise VerificationError(f"is not a tar archive: {error}", where=name) from error
    return contents


def _add(contents: Contents, members: Iterable[tarfile.TarInfo], tarball: str) -> None:
    for member in members:
        problem = member_problem(member, contents)
        if problem:
            raise VerificationError(
                f"member {member.name!r} {problem}",
                where=tarball,
                resolution="nothing was unpacked; find out where this tarball comes from",
            )
        _record(contents, member)


def member_problem(member: tarfile.TarInfo, contents: Contents) -> str:
    """Why a member is refused, given what was there before it; empty when it is not."""
    name = member.name.rstrip("/")
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        return "has a name that could leave the tree"
    if parts[0] not in ROOTS:
        return f"is in none of {', '.join(ROOTS)}"
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return "is a device node, FIFO or of an unknown type"
    parents = {"/".join(parts[:count]) for count in range(1, len(parts))}
    if parents & contents.links or (member.isdir() and name in contents.links):
        return "would be written through a symbolic link"
    if member.islnk() and member.linkname not in contents.files:
        return f"is a hard link to {member.linkname!r}, which is no file of this tree"
    return ""


def _record(contents: Contents, member: tarfile.TarInfo) -> None:
    name = member.name.rstrip("/")
    contents.links.discard(name)
    contents.files.pop(name, None)
    if member.isdir():
        contents.folders.add(name)
    elif member.issym():
        contents.links.add(name)
    else:
        contents.files[name] = member.size if member.isreg() else 0
