"""The tarballs of an image version: each member checked, then handed to whoever makes of it what it is for.

The first part of a member's name says where it goes (2015's convention): `system/` to slot a, `writable/` and `boot/`
to those filesystems; `assets/` and `hardware.yaml` hold the kernel. Later tarballs overwrite earlier ones.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, cast

from coreimage.errors import BuildError, VerificationError
from coreimage.process import Run
from coreimage.tarball import decompressed, directory

ROOTS = ("system", "writable", "boot", "assets", "hardware.yaml")
_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 4096
_INODE_BYTES = 256
_XATTR = "SCHILY.xattr."
"""Prefix of the pax records that carry extended attributes (star(5), GNU tar)."""
_GNU_TIMES, _CHECKSUM = slice(345, 369), slice(148, 156)
"""In a header of GNU tar: when the file was read and when its inode changed (tar(5)); in every header: its checksum."""
_ARCHIVE_END = bytes(2 * tarfile.BLOCKSIZE)


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


class Sink(Protocol):
    def write(self, content: bytes, /) -> object: ...

    def close(self) -> None: ...


def distribute(
    parts: Sequence[Path],
    filesystems: Mapping[str, Sink],
    rest: Sink,
    contents: Contents,
    *,
    limit_bytes: int,
    epoch: int,
    run: Run,
) -> None:
    """Decompresses and checks tarballs in one pass, in order, and adds to `contents` what they amount to.

    What is below a root of `filesystems` goes there as an archive of its own: names without that root, every folder
    before what is in it, no time later than `epoch`. Everything else goes to `rest`, readable for its owner. A later
    member takes the place of an earlier one. xz, zstd, gzip or plain, told by the first bytes.

    Raises VerificationError for a damaged tarball, and for a member that would leave the tree, write through a link,
    or make a device, of which nothing was written then; BuildError beyond `limit_bytes`.
    """
    archives = _Archives(filesystems, rest, contents, epoch)
    for part in parts:
        with decompressed(part, run=run) as source:
            passing = _Passing(source, part, limit_bytes)
            try:
                with tarfile.open(fileobj=passing, mode="r:") as tar:  # type: ignore[call-overload]
                    for member in tar:
                        _check(contents, member, part)
                        _pass_on(tar, member, passing, archives.begin(member))
                        _record(contents, member)
            except tarfile.TarError as error:
                raise VerificationError(f"is not a tar archive: {error}", where=str(part)) from error
            passing.drain()
    archives.end()


def _pass_on(tar: tarfile.TarFile, member: tarfile.TarInfo, passing: _Passing, sink: Sink) -> None:
    if member.sparse is None:
        passing.to(sink, _whole_blocks(member.size) if member.isreg() else 0)
        return
    shutil.copyfileobj(cast("IO[bytes]", tar.extractfile(member)), cast("IO[bytes]", sink), _CHUNK_BYTES)
    sink.write(bytes(_whole_blocks(member.size) - member.size))


def _whole_blocks(size_bytes: int) -> int:
    return -(-size_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class _Archives:
    """The archives that are written: one for each filesystem, each with a folder for its root, one for the rest."""

    def __init__(self, filesystems: Mapping[str, Sink], rest: Sink, contents: Contents, epoch: int) -> None:
        self._filesystems, self._rest, self._contents, self._epoch = filesystems, rest, contents, epoch
        for root, sink in filesystems.items():
            self._make(root, sink)

    def begin(self, member: tarfile.TarInfo) -> Sink:
        """Writes the header of a member; gives where its content goes."""
        root, _, inner = member.name.rstrip("/").partition("/")
        sink = self._filesystems.get(root)
        if sink is None:
            self._rest.write(header(member, member.name, member.linkname, self._epoch, readable=True))
            return self._rest
        self._make_parents(root, inner, sink)
        target = member.linkname.removeprefix(f"{root}/") if member.islnk() else member.linkname
        sink.write(header(member, inner or ".", target, self._epoch))
        return sink

    def end(self) -> None:
        for sink in (*self._filesystems.values(), self._rest):
            sink.write(_ARCHIVE_END)
            sink.close()

    def _make_parents(self, root: str, inner: str, sink: Sink) -> None:
        parts = [root, *inner.split("/")]
        for count in range(2, len(parts)):
            if (name := "/".join(parts[:count])) not in self._contents.folders:
                self._make(name, sink)

    def _make(self, name: str, sink: Sink) -> None:
        member = directory(name.partition("/")[2] or ".")
        member.mtime = self._epoch
        sink.write(header(member, member.name, "", self._epoch))
        self._contents.folders.add(name)


def header(member: tarfile.TarInfo, name: str, target: str, epoch: int, *, readable: bool = False) -> bytes:
    """What comes before a member's content in an archive of ours: owners as numbers, no time later than `epoch`.

    Reader and last change of the inode are dated `epoch`: without those, mke2fs would take 1970.
    """
    clean = copy(member)
    clean.name, clean.linkname, clean.uname, clean.gname = name, target, "", ""
    clean.mtime, clean.size = min(int(member.mtime), epoch), member.size if member.isreg() else 0
    clean.type = tarfile.REGTYPE if member.isreg() else member.type
    if readable:
        clean.mode |= 0o700 if member.isdir() else 0o600
    clean.pax_headers = {key: value for key, value in member.pax_headers.items() if key.startswith(_XATTR)}
    if clean.pax_headers:
        clean.pax_headers |= {"atime": str(epoch), "ctime": str(epoch)}
        return clean.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    blocks = bytearray(clean.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
    last = memoryview(blocks)[-tarfile.BLOCKSIZE :]
    last[_GNU_TIMES] = b"%011o\0" % epoch * 2
    last[_CHECKSUM] = b" " * 8
    last[_CHECKSUM] = b"%06o\0 " % sum(last)
    return bytes(blocks)


class _Passing:
    """An archive that `tarfile` reads from front to back. What it skips, the contents, goes where `to` says."""

    def __init__(self, source: IO[bytes], part: Path, limit_bytes: int) -> None:
        self._source, self._part, self._limit_bytes = source, part, limit_bytes
        self._position = self._passed_until = 0
        self._sink: Sink | None = None

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        wanted = self._passed_until - self._position
        self._position += len(chunk)
        if self._position > self._limit_bytes:
            raise BuildError(
                f"unpacks to more than the {self._limit_bytes} bytes of the whole disk",
                where=str(self._part),
                resolution="make the image larger (--size), or look at what is in this tarball",
            )
        if wanted > 0 and self._sink:
            self._sink.write(chunk[:wanted])
        return chunk

    def seek(self, position: int) -> None:
        while self._position < position and self.read(min(position - self._position, _CHUNK_BYTES)):
            pass

    def to(self, sink: Sink, size_bytes: int) -> None:
        """Passes on so much of what comes next."""
        self._sink, self._passed_until = sink, self._position + size_bytes

    def drain(self) -> None:
        """Reads what comes behind the archive's end, so that damage there is found too."""
        while self.read(_CHUNK_BYTES):
            pass


def _check(contents: Contents, member: tarfile.TarInfo, part: Path) -> None:
    problem = member_problem(member, contents)
    if problem:
        raise VerificationError(
            f"member {member.name!r} {problem}",
            where=str(part),
            resolution="no image was made; find out where this tarball comes from",
        )


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
    return _place_problem(member, parts, contents)


def _place_problem(member: tarfile.TarInfo, parts: Sequence[str], contents: Contents) -> str:
    name, parents = "/".join(parts), {"/".join(parts[:count]) for count in range(1, len(parts))}
    if parents & contents.links or (member.isdir() and name in contents.links):
        return "would be written through a symbolic link"
    if parents & contents.files.keys() or (member.isdir() and name in contents.files):
        return "would make a folder of a file"
    if not member.isdir() and name in contents.folders:
        return "would make a file of a folder"
    if not member.islnk():
        return ""
    if member.linkname not in contents.files:
        return f"is a hard link to {member.linkname!r}, which is no file of this tree"
    elsewhere = member.linkname.split("/")[0] != parts[0]
    return f"is a hard link to {member.linkname!r}, which is on another filesystem" if elsewhere else ""


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
