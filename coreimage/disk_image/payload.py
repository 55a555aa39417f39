"""The tarballs of an image version: each member checked before it is unpacked.

The first part of a member's name says where it goes (2015's convention): `system/` to slot a, `writable/` and `boot/`
to those filesystems; `assets/` and `hardware.yaml` hold the kernel. Later tarballs overwrite earlier ones.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from coreimage.errors import BuildError, VerificationError
from coreimage.process import Run, Sandbox
from coreimage.tarball import decompressed, written_by

ROOTS = ("system", "writable", "boot", "assets", "hardware.yaml")
_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 4096
_INODE_BYTES = 256

# The archives come as one stream, each with its end inside.
_UNPACK = """
umask 022
cd "$1"
tar --extract --ignore-zeros --numeric-owner --same-owner --preserve-permissions \\
    --delay-directory-restore --xattrs --xattrs-include='*'
for name in assets boot hardware.yaml; do
    [ -L "$name" ] || [ ! -e "$name" ] || { chown -R 0:0 "$name"; chmod -R u+rwX "$name"; }
done
"""


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


def unpack(parts: Sequence[Path], tree: Path, limit_bytes: int, *, run: Run) -> Contents:
    """Decompresses, checks and unpacks tarballs in one pass, in order, and says what they amount to.

    xz, zstd, gzip or plain, told by the first bytes. What belongs to no filesystem with owners (`assets/`, `boot/`,
    `hardware.yaml`) is ours afterwards, the rest is of whom the tarballs say. Raises VerificationError for a damaged
    one and for a member that would leave the tree, write through a link, or make a device, which does not reach `tar`;
    BuildError beyond `limit_bytes`.
    """
    contents = Contents()
    with written_by(partial(pass_checked, parts, contents, limit_bytes, run)) as stream:
        run(["sh", "-eu", "-c", _UNPACK, "unpack", tree], sandbox=Sandbox.ROOT, stdin=stream)
    return contents


def pass_checked(parts: Sequence[Path], contents: Contents, limit_bytes: int, run: Run, target: IO[bytes]) -> None:
    """Writes the tarballs to `target`, uncompressed and one behind the other, and adds to `contents` what they hold.

    Raises as `unpack`; of a refused member nothing has been written.
    """
    for part in parts:
        with decompressed(part, run=run) as source:
            passing = _Passing(source, target, part, limit_bytes)
            try:
                with tarfile.open(fileobj=passing, mode="r:") as tar:  # type: ignore[call-overload]
                    for member in tar:
                        _add(contents, member, part)
                        passing.pass_on()
            except tarfile.TarError as error:
                raise VerificationError(f"is not a tar archive: {error}", where=str(part)) from error
            passing.pass_on()
            passing.drain()


class _Passing:
    """An archive that `tarfile` reads from front to back, on its way to `target`.

    What `tarfile` skips, the content of members that were checked, goes on at once; what it looks at, the headers,
    waits for `pass_on`.
    """

    def __init__(self, source: IO[bytes], target: IO[bytes], part: Path, limit_bytes: int) -> None:
        self._source, self._target, self._part, self._limit_bytes = source, target, part, limit_bytes
        self._position = 0
        self._waiting = bytearray()

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        chunk = self._next(size)
        self._waiting += chunk
        return chunk

    def seek(self, position: int) -> None:
        while self._position < position and (chunk := self._next(min(position - self._position, _CHUNK_BYTES))):
            self._target.write(chunk)

    def pass_on(self) -> None:
        self._target.write(self._waiting)
        self._waiting.clear()

    def drain(self) -> None:
        """Reads what comes behind the archive's end, so that damage there is found too."""
        while self._next(_CHUNK_BYTES):
            pass

    def _next(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self._position += len(chunk)
        if self._position > self._limit_bytes:
            raise BuildError(
                f"unpacks to more than the {self._limit_bytes} bytes of the whole disk",
                where=str(self._part),
                resolution="make the image larger (--size), or look at what is in this tarball",
            )
        return chunk


def _add(contents: Contents, member: tarfile.TarInfo, part: Path) -> None:
    problem = member_problem(member, contents)
    if problem:
        raise VerificationError(
            f"member {member.name!r} {problem}",
            where=str(part),
            resolution="no image was made; find out where this tarball comes from",
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
    if problem := _kind_problem(member, top=len(parts) == 1):
        return problem
    parents = {"/".join(parts[:count]) for count in range(1, len(parts))}
    if parents & contents.links or (member.isdir() and name in contents.links):
        return "would be written through a symbolic link"
    if member.islnk() and member.linkname not in contents.files:
        return f"is a hard link to {member.linkname!r}, which is no file of this tree"
    return ""


def _kind_problem(member: tarfile.TarInfo, *, top: bool) -> str:
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return "is a device node, FIFO or of an unknown type"
    if top and not (member.isreg() if member.name == "hardware.yaml" else member.isdir()):
        return "is not what belongs at the top"
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
