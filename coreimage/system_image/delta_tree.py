"""The tree that the tarballs of an image make when they are unpacked over each other, content and all."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

from coreimage.client.tree import Entry, Kind, tree_sha256
from coreimage.errors import VerificationError

_KINDS: dict[bytes, Kind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}
_RECORDS = ("SCHILY.", "RHT.security.", "LIBARCHIVE.xattr.")
"""Pax records that describe the file; the others describe the archive, or are in the header already."""
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Node:
    """One name of the tree. Names of one file share its `inode`, and each is a `file` here.

    `layer` is the tarball that the name comes from, `member` the header of its content, which is in tarball `source`:
    an earlier one where the name is a hard link to a file of that.
    """

    entry: Entry
    inode: int
    layer: int
    source: int
    member: tarfile.TarInfo


class LayeredTree:
    """`tars` are in the order in which they are applied: a later one replaces what an earlier one brought.

    Raises VerificationError for a name that leaves the tree, a link to nothing, or an unknown kind of member.
    """

    def __init__(self, tars: Sequence[tarfile.TarFile]) -> None:
        self._tars = tars
        self._nodes: dict[bytes, Node] = {}
        self._inodes = 0
        for layer, tar in enumerate(tars):
            for member in tar:
                self._add(layer, tar, member)
        self.names: tuple[bytes, ...] = tuple(sorted(self._nodes))
        self.groups: dict[int, tuple[bytes, ...]] = self._group()
        """The names of each inode, sorted."""

    def __contains__(self, name: bytes) -> bool:
        return name in self._nodes

    def __getitem__(self, name: bytes) -> Node:
        return self._nodes[name]

    def get(self, name: bytes) -> Node | None:
        return self._nodes.get(name)

    def last_layer(self, name: bytes) -> int:
        """The tarball after which all names of the file are there."""
        return max(self._nodes[other].layer for other in self.groups[self._nodes[name].inode])

    def entries(self) -> Iterator[Entry]:
        """In byte order of their names; further names of a file are links to the first."""
        for name in self.names:
            yield self.entry(name)

    def entry(self, name: bytes) -> Entry:
        node = self._nodes[name]
        first = self.groups[node.inode][0]
        return node.entry if first == name else Entry(name, "link", target=first)

    def open(self, name: bytes) -> IO[bytes]:
        """The content of a file."""
        node = self._nodes[name]
        file = self._tars[node.source].extractfile(node.member)
        assert file is not None  # noqa: S101
        return file

    def read(self, name: bytes) -> bytes:
        with self.open(name) as file:
            return file.read()

    def sha256(self) -> str:
        return tree_sha256(self.entries())

    def _add(self, layer: int, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = _name(member.name, tar)
        if not name:
            return
        if member.islnk():
            linked = self._nodes.get(_name(member.linkname, tar))
            if linked is None or linked.entry.kind == "folder":
                raise _refused(member, tar, f"is a hard link to {member.linkname!r}, which is no file before it")
            node = replace(linked, entry=replace(linked.entry, name=name), layer=layer)
        else:
            self._inodes += 1
            node = Node(_entry(name, tar, member), self._inodes, layer, layer, member)
        replaced = self._nodes.get(name)
        if replaced is not None and replaced.entry.kind == "folder" != node.entry.kind:
            self._nodes = {at: kept for at, kept in self._nodes.items() if not at.startswith(name + b"/")}
        self._nodes[name] = node

    def _group(self) -> dict[int, tuple[bytes, ...]]:
        groups: dict[int, list[bytes]] = {}
        for name in self.names:
            groups.setdefault(self._nodes[name].inode, []).append(name)
        return {inode: tuple(names) for inode, names in groups.items()}


def _entry(name: bytes, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = _KINDS.get(member.type)
    if kind is None:
        raise _refused(member, tar, "is of an unknown kind")
    records = {key: _bytes(value) for key, value in member.pax_headers.items() if key.startswith(_RECORDS)}
    return Entry(
        name,
        kind,
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=int(member.mtime),
        target=_bytes(member.linkname) if kind == "symlink" else b"",
        device=(member.devmajor, member.devminor) if kind in {"char", "block"} else (0, 0),
        records=tuple(sorted(records.items())),
        size_bytes=member.size if kind == "file" else 0,
        sha256=_sha256(tar, member) if kind == "file" else b"",
    )


def _sha256(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    digest = hashlib.sha256()
    file = tar.extractfile(member)
    while file and (chunk := file.read(_CHUNK_BYTES)):
        digest.update(chunk)
    return digest.digest()


def _name(text: str, tar: tarfile.TarFile) -> bytes:
    name = _bytes(text).strip(b"/") if text.startswith("./") else _bytes(text).rstrip(b"/")
    name = name.removeprefix(b"./")
    if name in {b"", b"."}:
        return b""
    if name.startswith(b"/") or {b"", b".", b".."} & set(name.split(b"/")) or b"\0" in name:
        raise VerificationError(
            f"{text[:200]!r} leaves the place it is unpacked to", where=str(tar.name), resolution=_RESOLUTION
        )
    return name


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refused(member: tarfile.TarInfo, tar: tarfile.TarFile, problem: str) -> VerificationError:
    return VerificationError(f"{member.name[:200]!r} {problem}", where=str(tar.name), resolution=_RESOLUTION)


_RESOLUTION = "no delta was made; look at what made this tarball"
