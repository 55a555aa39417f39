"""The tree that the tarballs of an image make when they are unpacked over each other, without unpacking them.

A tarball that begins with `removed` is a delta of 2015: what the lines of that file name is deleted first
(system-image §2.5).
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO

from coreimage.client.errors import RepositoryError
from coreimage.client.tree import Entry, Kind, Tree, as_bytes, as_text, is_utf8, safe_name, tree_sha256

REMOVED = "removed"

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
_DESCRIBING = ("SCHILY.", "RHT.security.", "LIBARCHIVE.xattr.")
"""Beginnings of pax records that describe the file; others describe the archive, or repeat what the header says."""
_CHUNK_BYTES = 1 << 20
_REMOVED_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """One name of the tree.

    Attributes:
        entry: What the name is; each of several names of one file is a `file` here.
        inode: The same number for all names of one file.
        layer: The number of the tarball that brought the name; -1 for what the base has.
        open: Opens the content, which is in an earlier tarball where the name is a hard link to a file of that; None
            for what has no content.
    """

    entry: Entry
    inode: int
    layer: int
    open: Callable[[], IO[bytes] | None]


class LayeredTree:
    """The tree of tarballs over each other, over `base` if there is one: a later one replaces what is there.

    The tarballs, uncompressed, must stay open as long as contents are read.

    Attributes:
        names: All names, sorted.
        groups: The names of each inode, sorted.

    Raises:
        RepositoryError: A name leaves the tree, a hard link leads to nothing, a member is of an unknown kind, or an
            archive is broken.
    """

    def __init__(self, tars: Sequence[tarfile.TarFile], *, base: Tree | None = None) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._inodes = 0
        if base is not None:
            self._take_over(base)
        for layer, tar in enumerate(tars):
            try:
                self._unpack(layer, tar)
            except (tarfile.TarError, EOFError, OverflowError) as error:
                raise RepositoryError(f"not a tar archive: {error}", where=str(tar.name)) from error
        self.names: tuple[bytes, ...] = tuple(sorted(self._nodes))
        groups: dict[int, list[bytes]] = {}
        for name in self.names:
            groups.setdefault(self._nodes[name].inode, []).append(name)
        self.groups = {inode: tuple(names) for inode, names in groups.items()}

    def __contains__(self, name: bytes) -> bool:
        return name in self._nodes

    def __getitem__(self, name: bytes) -> Node:
        return self._nodes[name]

    def get(self, name: bytes) -> Node | None:
        """Return the node of a name, or None."""
        return self._nodes.get(name)

    def last_layer(self, name: bytes) -> int:
        """Return the number of the tarball after which all names of the file are there."""
        return max(self._nodes[other].layer for other in self.groups[self._nodes[name].inode])

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in the byte order of their names; further names of a file are links to the first."""
        for name in self.names:
            yield self.entry(name)

    def entry(self, name: bytes) -> Entry:
        """Return one entry; a further name of a file is a link to the first. Raises KeyError."""
        node = self._nodes[name]
        first = self.groups[node.inode][0]
        return node.entry if first == name else Entry(name, "link", target=first)

    def open(self, name: bytes) -> IO[bytes]:
        """Open the content of a file. Raises KeyError for a name that is none."""
        file = self._nodes[name].open()
        if file is None:
            raise KeyError(name)
        return file

    def read(self, name: bytes) -> bytes:
        """Return the content of a file."""
        with self.open(name) as file:
            return file.read()

    def sha256(self) -> str:
        """Return the digest of the whole tree."""
        return tree_sha256(self.entries())

    def _take_over(self, base: Tree) -> None:
        for entry in base.entries():
            if entry.kind == "link":
                first = self._nodes[entry.target]
                self._nodes[entry.name] = replace(first, entry=replace(first.entry, name=entry.name))
            else:
                self._inodes += 1
                opener = partial(base.open, entry.name) if entry.kind == "file" else _no_content
                self._nodes[entry.name] = Node(entry, self._inodes, -1, opener)

    def _unpack(self, layer: int, tar: tarfile.TarFile) -> None:
        for number, member in enumerate(tar):
            if number == 0 and member.name == REMOVED:
                self._remove(tar, member)
            else:
                self._add(layer, tar, member)
            tar.members = []  # type: ignore[attr-defined]  # it would keep all that a header says, of every member

    def _remove(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Delete what a `removed` file names, and all below. An empty line, which the original writes where nothing is
        to be deleted, names nothing."""
        file = tar.extractfile(member)
        lines = file.read(_REMOVED_LIMIT_BYTES).split(b"\n") if file else []
        removed = {_name(as_text(line), tar) for line in lines} - {b""}
        self._nodes = {
            name: node for name, node in self._nodes.items() if not any(each in removed for each in _with_parents(name))
        }

    def _add(self, layer: int, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Put a member in the place of what has its name: with all below, where a folder becomes something else."""
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
            node = Node(_entry(name, tar, member), self._inodes, layer, _opener(tar, member))
        replaced = self._nodes.get(name)
        if replaced is not None and replaced.entry.kind == "folder":
            if node.entry.kind == "folder":
                records = dict(replaced.entry.records) | dict(node.entry.records)  # a folder loses no attribute
                node = replace(node, entry=replace(node.entry, records=tuple(sorted(records.items()))))
            else:
                self._nodes = {at: kept for at, kept in self._nodes.items() if not at.startswith(name + b"/")}
        self._nodes[name] = node


def _no_content() -> None:
    return None


def _with_parents(name: bytes) -> Iterator[bytes]:
    """Yield a name and the names of the folders above it."""
    while name:
        yield name
        name = name.rpartition(b"/")[0]


def _entry(name: bytes, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = _KINDS.get(member.type)
    if kind is None:
        raise _refused(member, tar, "is of an unknown kind")
    if not all(map(is_utf8, member.pax_headers)):
        raise _refused(member, tar, "has a pax record whose name is not UTF-8")
    records = {key: as_bytes(value) for key, value in member.pax_headers.items() if key.startswith(_DESCRIBING)}
    return Entry(
        name,
        kind,
        mode=0o777 if kind == "symlink" else member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=int(member.mtime),
        target=as_bytes(member.linkname) if kind == "symlink" else b"",
        device=(member.devmajor, member.devminor) if kind in {"char", "block"} else (0, 0),
        records=tuple(sorted(records.items())),
        size_bytes=member.size if kind == "file" else 0,
        sha256=_sha256(tar, member) if kind == "file" else b"",
    )


def _opener(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes] | None]:
    """Return what opens the member's content; it keeps the place of that only, as there are many members."""
    if not member.isfile():
        return _no_content
    if member.issparse():
        return partial(tar.extractfile, member)
    return partial(_content, tar, member.offset_data, member.size)


def _content(tar: tarfile.TarFile, start: int, size_bytes: int) -> IO[bytes] | None:
    member = tarfile.TarInfo()
    member.offset_data, member.size = start, size_bytes
    return tar.extractfile(member)


def _sha256(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    digest = hashlib.sha256()
    file = tar.extractfile(member)
    while file and (chunk := file.read(_CHUNK_BYTES)):
        digest.update(chunk)
    return digest.digest()


def _name(text: str, tar: tarfile.TarFile) -> bytes:
    """Return the name that a member has in the tree; empty for the root. Raises RepositoryError."""
    if text.rstrip("/") in {"", "."}:
        return b""
    try:
        return as_bytes(safe_name(text))
    except ValueError as error:
        raise RepositoryError(f"{text[:200]!r} {error}", where=str(tar.name)) from error


def _refused(member: tarfile.TarInfo, tar: tarfile.TarFile, problem: str) -> RepositoryError:
    return RepositoryError(f"{member.name[:200]!r} {problem}", where=str(tar.name))
