"""Tar archives that somebody else wrote: everything is checked before anything is written."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from coreimage.errors import HostError, VerificationError

_PART_BYTES = 255
"""NAME_MAX of every Linux filesystem that matters."""
_KINDS = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE}


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to; a decompression bomb passes one of these first."""

    members: int = 1_000_000
    member_bytes: int = 4 << 30
    total_bytes: int = 16 << 30
    name_bytes: int = 4096


@dataclass
class MemberCheck:
    """Judges members in archive order: what came before decides whether a path leads through a link.

    `roots`: the first path components that are allowed; empty allows all. `duplicates`: whether a name may come
    twice (a delta or a core import may repeat a directory; only directories may).
    """

    where: str = ""
    limits: Limits = field(default_factory=Limits)
    roots: Collection[str] = ()
    _kinds: dict[str, bytes] = field(default_factory=dict)
    _folders: set[str] = field(default_factory=set)
    _total_bytes: int = 0

    def __call__(self, member: tarfile.TarInfo) -> None:
        """Raises VerificationError naming the member and what is wrong with it."""
        path = self._path(member.name)
        if member.type not in _KINDS:
            self._refuse(member, "is a device node, FIFO or unknown kind of member")
        if self.roots and path.parts[0] not in self.roots:
            self._refuse(member, f"does not begin with {' or '.join(sorted(self.roots))}")
        self._through(member, path)
        if member.islnk():
            self._hard_link(member)
        self._size(member)
        self._once(member, str(path))

    def _path(self, name: str) -> PurePosixPath:
        path = PurePosixPath(name)
        outside = name.startswith("/") or ".." in path.parts or "\0" in name or not path.parts
        sizes = [len(part.encode(errors="surrogateescape")) for part in path.parts]
        if outside or max(sizes) > _PART_BYTES or sum(sizes) > self.limits.name_bytes:
            raise VerificationError(
                f"{name[:200]!r} leaves the place it is unpacked to, or no file can have that name",
                where=self.where,
                resolution=_RESOLUTION,
            )
        return path

    def _through(self, member: tarfile.TarInfo, path: PurePosixPath) -> None:
        for parent in map(str, path.parents):
            kind = self._kinds.get(parent, tarfile.DIRTYPE)
            if kind != tarfile.DIRTYPE:
                what = "the symbolic link" if kind == tarfile.SYMTYPE else "something that is no folder,"
                self._refuse(member, f"goes through {what} {parent!r}")
            self._folders.add(parent)

    def _hard_link(self, member: tarfile.TarInfo) -> None:
        target = self._path(member.linkname)
        self._through(member, target)
        if self._kinds.get(str(target)) not in {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE}:
            self._refuse(member, f"is a hard link to {member.linkname!r}, which is no file before it")

    def _size(self, member: tarfile.TarInfo) -> None:
        self._total_bytes += member.size
        too_large = member.size > self.limits.member_bytes or self._total_bytes > self.limits.total_bytes
        if member.size < 0 or too_large or len(self._kinds) >= self.limits.members:
            self._refuse(member, "passes the limits for size or number of members")

    def _once(self, member: tarfile.TarInfo, name: str) -> None:
        before = self._kinds.get(name, tarfile.DIRTYPE if name in self._folders else None)
        if before is not None and not (before == tarfile.DIRTYPE and member.isdir()):
            self._refuse(member, "is there twice")
        self._kinds[name] = member.type

    def _refuse(self, member: tarfile.TarInfo, problem: str) -> None:
        raise VerificationError(f"{member.name[:200]!r} {problem}", where=self.where, resolution=_RESOLUTION)


_RESOLUTION = "nothing of it was used; get the archive again from a source that you trust"


def check_members(members: Iterable[tarfile.TarInfo], check: MemberCheck) -> Iterator[tarfile.TarInfo]:
    """The same members, each after its check."""
    for member in members:
        check(member)
        yield member


def extract(file: IO[bytes], folder: Path, check: MemberCheck) -> None:
    """Unpacks an uncompressed, seekable tar below `folder`, as the calling user; nothing is written unless all passes.

    Owners are not applied. Raises VerificationError for a refused member or a broken archive, HostError where this
    machine cannot write.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = list(check_members(tar, check))
            tar.extractall(folder, members, filter="tar")
    except tarfile.TarError as error:
        raise VerificationError(f"not a tar archive: {error}", where=check.where, resolution=_RESOLUTION) from error
    except OSError as error:
        raise HostError(
            f"cannot be unpacked: {error.strerror}", where=str(folder), resolution="free space, or use another folder"
        ) from error
