"""The tarballs of an image version, read once: every member is checked, then goes to the filesystem that it is for.

What the first part of a name means is in `tarball.VERSION_ROOTS`. Making filesystems of the archives that come out of
this is in `filesystems`.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import IO, Protocol, cast

from coreimage.client.tree import safe_name
from coreimage.errors import BuildError, VerificationError
from coreimage.host.process import Run
from coreimage.tarball import VERSION_ROOTS, Contents, Limits, MemberCheck, decompressed, directory

_CHUNK_BYTES = 1 << 20
_XATTR = "SCHILY.xattr."
"""Prefix of the pax records that carry extended attributes (star(5), GNU tar)."""
_GNU_TIMES, _CHECKSUM = slice(345, 369), slice(148, 156)
"""In a header of GNU tar: when the file was read and when its inode changed (tar(5)); in every header: its checksum."""
_ARCHIVE_END = bytes(2 * tarfile.BLOCKSIZE)
_NO_LIMITS = Limits(member_bytes=sys.maxsize, total_bytes=sys.maxsize)
"""The size of the disk is the limit, and is checked as bytes pass."""


class Sink(Protocol):
    """Something that takes the bytes of an archive."""

    def write(self, content: bytes, /) -> object: ...

    def close(self) -> None: ...


def distribute(
    parts: Sequence[Path],
    filesystems: Mapping[str, Sink],
    rest: Sink,
    *,
    limit_bytes: int,
    epoch: int,
    run: Run,
    follow_links: bool = False,
) -> Contents:
    """Sort the members of tarballs into one archive per filesystem and one for the rest, in one pass.

    A later member takes the place of an earlier one. In every archive, folders come before what is in them, owners are
    numbers, and no time is later than `epoch`.

    Args:
        parts: Tarballs in the order in which they are applied: xz, zstd, gzip or plain, told by their first bytes.
        filesystems: By root (a key of `VERSION_ROOTS`), where to write the archive of what is below it. Names in it
            are without the root. Each is closed when all is written.
        rest: Where to write the archive of everything else, readable for its owner; closed as well.
        limit_bytes: What each part may unpack to.
        epoch: Seconds, UTC.
        follow_links: Let names go through symbolic links inside the tree, as in trees of the original server, which
            puts `system/lib/modules` over a merged `/usr`.

    Returns:
        What the tarballs amount to.

    Raises:
        VerificationError: A tarball is damaged, or `MemberCheck` refuses a member, of which nothing was written then.
        BuildError: A tarball unpacks to more than `limit_bytes`.
    """
    check = MemberCheck(roots=VERSION_ROOTS, limits=_NO_LIMITS, overwrite=True)
    archives = _Archives(filesystems, rest, epoch)
    for part in parts:
        with decompressed(part, run=run) as source:
            stream = _MemberStream(source, part, limit_bytes)
            try:
                with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
                    for member in tar:
                        if follow_links:
                            member.name = check.follow_links(member.name)
                            member.linkname = check.follow_links(member.linkname) if member.islnk() else member.linkname
                        member.name = check.accept(member, str(part))
                        _copy_content(tar, member, stream, archives.begin(member))
            except tarfile.TarError as error:
                raise VerificationError(f"is not a tar archive: {error}", where=str(part)) from error
            # Damage behind the archive's end counts too.
            while stream.read(_CHUNK_BYTES):
                pass
    archives.end()
    return check.contents


def _copy_content(tar: tarfile.TarFile, member: tarfile.TarInfo, stream: _MemberStream, sink: Sink) -> None:
    if member.sparse is None:
        stream.copy_next(sink, _whole_blocks(member.size) if member.isreg() else 0)
        return
    shutil.copyfileobj(cast("IO[bytes]", tar.extractfile(member)), cast("IO[bytes]", sink), _CHUNK_BYTES)
    sink.write(bytes(_whole_blocks(member.size) - member.size))


def _whole_blocks(size_bytes: int) -> int:
    return -(-size_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class _Archives:
    """The archives being written: one per filesystem, beginning with the folder of its root, and one for the rest."""

    def __init__(self, filesystems: Mapping[str, Sink], rest: Sink, epoch: int) -> None:
        self._filesystems, self._rest, self._epoch = filesystems, rest, epoch
        self._folders: set[str] = set()
        for root, sink in filesystems.items():
            self._add_folder(root, sink)

    def begin(self, member: tarfile.TarInfo) -> Sink:
        """Write the header of a member, and return where its content goes."""
        root, _, inner = member.name.partition("/")
        target = safe_name(member.linkname) if member.islnk() else member.linkname
        sink = self._filesystems.get(root)
        if sink is None:
            self._rest.write(header(member, member.name, target, self._epoch, readable=True))
            return self._rest
        parts = member.name.split("/")
        for count in range(2, len(parts)):
            if (folder := "/".join(parts[:count])) not in self._folders:
                self._add_folder(folder, sink)
        if member.isdir():
            self._folders.add(member.name)
        if member.islnk():
            target = target.removeprefix(f"{root}/")
        sink.write(header(member, inner or ".", target, self._epoch))
        return sink

    def end(self) -> None:
        for sink in (*self._filesystems.values(), self._rest):
            sink.write(_ARCHIVE_END)
            sink.close()

    def _add_folder(self, name: str, sink: Sink) -> None:
        member = directory(name.partition("/")[2] or ".")
        member.mtime = self._epoch
        sink.write(header(member, member.name, "", self._epoch))
        self._folders.add(name)


def header(member: tarfile.TarInfo, name: str, target: str, epoch: int, *, readable: bool = False) -> bytes:
    """Return the header of a member under another name: owners as numbers, no time later than `epoch`.

    The times of reading and of the inode's last change are `epoch`: mke2fs would take 1970 for them.

    Args:
        member: Whose kind, size, owners, mode, time and extended attributes the header has.
        name: The member's name in the new archive.
        target: What it links to there.
        epoch: Seconds, UTC.
        readable: Whether its owner may read it, whatever its mode says.
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


class _MemberStream:
    """A tar archive, read by `tarfile` from front to back. The contents that it skips are copied on the way.

    Contents are thus read once, and headers are parsed by `tarfile`.
    """

    def __init__(self, source: IO[bytes], part: Path, limit_bytes: int) -> None:
        self._source, self._part, self._limit_bytes = source, part, limit_bytes
        self._position = self._copy_until = 0
        self._sink: Sink | None = None

    def copy_next(self, sink: Sink, size_bytes: int) -> None:
        """Copy the next `size_bytes` to `sink` as soon as they are read."""
        self._sink, self._copy_until = sink, self._position + size_bytes

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        to_copy = self._copy_until - self._position
        self._position += len(chunk)
        if self._position > self._limit_bytes:
            raise BuildError(
                f"unpacks to more than the {self._limit_bytes} bytes of the whole disk",
                where=str(self._part),
                resolution="make the image larger (--size), or look at what is in this tarball",
            )
        if to_copy > 0 and self._sink:
            self._sink.write(chunk[:to_copy])
        return chunk

    def seek(self, position: int) -> None:
        while self._position < position and self.read(min(position - self._position, _CHUNK_BYTES)):
            pass
