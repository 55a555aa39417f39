"""Tar archives that somebody else wrote: the one rule for what their members may be, and unpacking by that rule.

The rule for names is `client.tree.safe_name`, which devices use too. Writing archives is in `writing`.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from coreimage.client.tree import is_utf8, safe_name
from coreimage.errors import HostError, VerificationError

Kind = Literal["folder", "file", "symbolic link"]

VERSION_ROOTS: Mapping[str, Kind] = {
    "system": "folder",
    "writable": "folder",
    "boot": "folder",
    "assets": "folder",
    "hardware.yaml": "file",
}
"""What the tarballs of an image version have at the top: it says where everything below goes (device-flash §4)."""
_LINKS_AT_MOST = 40
"""As many symbolic links does Linux follow in one name (path_resolution(7))."""
_RESOLUTION = "nothing of it was used; get the archive again from a source that you trust"


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to; a decompression bomb passes one of these first."""

    members: int = 1_000_000
    member_bytes: int = 4 << 30
    total_bytes: int = 16 << 30


@dataclass
class Contents:
    """What archives amount to once they are unpacked over each other. Keys are the names of members.

    `files` has sizes in bytes: those of hard links are 0. `links` has what symbolic links say.
    """

    folders: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    def kind(self, name: str) -> Kind | None:
        """Return what has this name; None for nothing."""
        if name in self.folders:
            return "folder"
        if name in self.links:
            return "symbolic link"
        return "file" if name in self.files else None

    def put(self, name: str, member: tarfile.TarInfo) -> None:
        """Put a member, and the folders that it implies, in the place of what has its name."""
        self.links.pop(name, None)
        self.files.pop(name, None)
        if member.isdir():
            self.folders.add(name)
        elif member.issym():
            self.links[name] = member.linkname
        else:
            self.files[name] = member.size if member.isreg() else 0
        self.folders.update(_parents(name))


@dataclass
class MemberCheck:
    """The rule for members, applied in the order of one archive, or of several that are unpacked over each other.

    A member is a file, a folder, or a link, whose name stays inside, leads through folders only, and is not taken yet.

    Attributes:
        roots: What may be at the top, and as what; empty for no such rule. Then no hard link leads to another root.
        overwrite: Whether a file or link may take the place of an earlier one. A folder may always come again.
        contents: All members that were accepted.
    """

    roots: Mapping[str, Kind] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    overwrite: bool = False
    contents: Contents = field(default_factory=Contents)
    _members: int = 0
    _total_bytes: int = 0

    def accept(self, member: tarfile.TarInfo, where: str) -> str:
        """Add the next member to the contents, and return its name as `safe_name` gives it.

        Raises:
            VerificationError: The rule forbids the member. The message names `where`, the member and the reason.
        """
        try:
            name = safe_name(member.name)
            problem = next(chain(self._member_problems(member), self._place_problems(name, member)), "")
        except ValueError as error:
            problem = str(error)
        if problem:
            raise VerificationError(f"{member.name[:200]!r} {problem}", where=where, resolution=_RESOLUTION)
        self.contents.put(name, member)
        return name

    def follow_links(self, name: str) -> str:
        """Return where a name ends whose folders are symbolic links of earlier members, as tar unpacks it.

        A link's target is taken to be inside the root that the link is in. A name that leaves the root that way is
        returned as it is, and `accept` refuses it.
        """
        place = name.removeprefix("./").rstrip("/")
        for _ in range(_LINKS_AT_MOST):
            link = next((parent for parent in reversed(_parents(place)) if parent in self.contents.links), None)
            if link is None:
                return place
            root, target = link.partition("/")[0], self.contents.links[link]
            start = root if target.startswith("/") else posixpath.dirname(link)
            place = posixpath.normpath(f"{start}/{target}") + place.removeprefix(link)
            if not place.startswith(f"{root}/"):
                break
        return name

    def _member_problems(self, member: tarfile.TarInfo) -> Iterator[str]:
        if _kind(member) is None:
            yield "is a device node, FIFO or unknown kind of member"
        if not all(map(is_utf8, member.pax_headers)):
            yield "has a pax record whose name is not UTF-8"
        self._members += 1
        self._total_bytes += member.size
        too_large = member.size > self.limits.member_bytes or self._total_bytes > self.limits.total_bytes
        if member.size < 0 or too_large or self._members > self.limits.members:
            yield "passes the limits for size or number of members"

    def _place_problems(self, name: str, member: tarfile.TarInfo) -> Iterator[str]:
        kind, root = _kind(member), name.partition("/")[0]
        if self.roots and root not in self.roots:
            yield f"does not begin with {' or '.join(self.roots)}"
        if self.roots and root == name and kind != self.roots[root]:
            yield f"is a {kind}, and a {self.roots[root]} belongs there"
        for parent in _parents(name):
            if self.contents.kind(parent) not in {"folder", None}:
                yield f"goes through the {self.contents.kind(parent)} {parent!r}"
        before = self.contents.kind(name)
        if before and before != kind and "folder" in {before, kind}:
            yield f"is a {kind} in the place of a {before}"
        if before and kind != "folder" and not self.overwrite:
            yield "is there twice"
        if member.islnk() and (problem := self._target_problem(member.linkname, root)):
            yield f"is a hard link to {member.linkname[:200]!r}, which {problem}"

    def _target_problem(self, linkname: str, root: str) -> str:
        try:
            target = safe_name(linkname)
        except ValueError as error:
            return str(error)
        if target not in self.contents.files:
            return "is no file before it"
        elsewhere = self.roots and target.partition("/")[0] != root
        return "is on another filesystem" if elsewhere else ""


def extract(file: IO[bytes], folder: Path, *, where: str, limits: Limits | None = None) -> None:
    """Unpack an uncompressed, seekable tar below `folder`, as the calling user: all of it, or nothing.

    Owners are not applied.

    Args:
        file: The archive.
        folder: Is made when it does not exist.
        where: What error messages call the archive.
        limits: What it may unpack to; the defaults of `Limits` if not given.

    Raises:
        VerificationError: The archive is damaged, or has a member that `MemberCheck` refuses.
        HostError: This machine cannot write it.
    """
    check = MemberCheck(limits=limits or Limits())
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = []
            for member in tar:
                check.accept(member, where)
                members.append(member)
            tar.extractall(folder, members, filter="tar")
    except tarfile.TarError as error:
        raise VerificationError(f"not a tar archive: {error}", where=where, resolution=_RESOLUTION) from error
    except OSError as error:
        raise HostError(
            f"cannot be unpacked: {error.strerror}", where=str(folder), resolution="free space, or use another folder"
        ) from error


def _kind(member: tarfile.TarInfo) -> Kind | None:
    if member.isdir():
        return "folder"
    if member.issym():
        return "symbolic link"
    return "file" if member.isreg() or member.islnk() else None


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents][:-1]
