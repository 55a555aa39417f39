"""The tree that the tarballs of an image make when they are unpacked over each other, content and all.

A tarball that begins with `removed` is a delta of 2015: what its lines name goes first (system-image §2.5).
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO

from coreimage.client.errors import RepositoryError
from coreimage.client.tree import Entry, Kind, Tree, as_bytes, as_text, tree_sha256

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
_RECORDS = ("SCHILY.", "RHT.security.", "LIBARCHIVE.xattr.")
"""Pax records that describe the file; the others describe the archive, or are in the header already."""
_CHUNK_BYTES = 1 << 20
_REMOVED_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """One name of the tree. Names of one file share its `inode`, and each is a `file` here.

    `layer` is the number of the tarball that the name comes from, -1 for what was there before; `open` gives its
    content, which may be in an earlier tarball where the name is a hard link to a file of that.
    """

    entry: Entry
    inode: int
    layer: int
    open: Callable[[], IO[bytes] | None]


class LayeredTree:
    """`tars` are in the order in which they are applied, to nothing or to `base`: a later one replaces what an earlier
    one brought.

    Raises RepositoryError for a name that leaves the tree, a link to nothing, an unknown kind of member or a broken
    archive.
    """

    def __init__(self, tars: Sequence[tarfile.TarFile], *, base: Tree | None = None) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._inodes = 0
        if base is not None:
            for entry in base.entries():
                self._keep(entry, base)
        for layer, tar in enumerate(tars):
            try:
                self._unpack(layer, tar)
            except (tarfile.TarError, EOFError, OverflowError) as error:
                raise RepositoryError(f"not a tar archive: {error}", where=str(tar.name)) from error
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
        file = self._nodes[name].open()
        if file is None:
            raise KeyError(name)
        return file

    def read(self, name: bytes) -> bytes:
        with self.open(name) as file:
            return file.read()

    def sha256(self) -> str:
        return tree_sha256(self.entries())

    def _keep(self, entry: Entry, base: Tree) -> None:
        if entry.kind == "link":
            self._nodes[entry.name] = replace(
                self._nodes[entry.target], entry=replace(self._nodes[entry.target].entry, name=entry.name)
            )
            return
        self._inodes += 1
        opened = partial(base.open, entry.name) if entry.kind == "file" else _nothing
        self._nodes[entry.name] = Node(entry, self._inodes, -1, opened)

    def _unpack(self, layer: int, tar: tarfile.TarFile) -> None:
        for number, member in enumerate(tar):
            if number == 0 and member.name == REMOVED:
                self._remove(tar, member)
            else:
                self._add(layer, tar, member)
            tar.members = []  # type: ignore[attr-defined]  # it would keep all that a header says, of every member

    def _remove(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Deletion is recursive. An empty line, as the original writes where nothing goes, names nothing."""
        file = tar.extractfile(member)
        lines = file.read(_REMOVED_LIMIT_BYTES).split(b"\n") if file else []
        gone = {_name(as_text(line), tar) for line in lines} - {b""}
        self._nodes = {
            name: node for name, node in self._nodes.items() if not any(start in gone for start in _and_parents(name))
        }

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
            node = Node(_entry(name, tar, member), self._inodes, layer, _opener(tar, member))
        replaced = self._nodes.get(name)
        if replaced is not None and replaced.entry.kind == "folder":
            if node.entry.kind == "folder":
                node = replace(node, entry=_over(replaced.entry, node.entry))
            else:
                self._nodes = {at: kept for at, kept in self._nodes.items() if not at.startswith(name + b"/")}
        self._nodes[name] = node

    def _group(self) -> dict[int, tuple[bytes, ...]]:
        groups: dict[int, list[bytes]] = {}
        for name in self.names:
            groups.setdefault(self._nodes[name].inode, []).append(name)
        return {inode: tuple(names) for inode, names in groups.items()}


def _nothing() -> None:
    return None


def _and_parents(name: bytes) -> Iterator[bytes]:
    while name:
        yield name
        name = name.rpartition(b"/")[0]


def _over(old: Entry, new: Entry) -> Entry:
    """A folder that is there gets what is said of it, and loses no attribute."""
    return replace(new, records=tuple(sorted((dict(old.records) | dict(new.records)).items())))


def _entry(name: bytes, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = _KINDS.get(member.type)
    if kind is None:
        raise _refused(member, tar, "is of an unknown kind")
    records = {key: as_bytes(value) for key, value in member.pax_headers.items() if key.startswith(_RECORDS)}
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
    if not member.isfile():
        return _nothing
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
    name = as_bytes(text).strip(b"/") if text.startswith("./") else as_bytes(text).rstrip(b"/")
    name = name.removeprefix(b"./")
    if name in {b"", b"."}:
        return b""
    if name.startswith(b"/") or {b"", b".", b".."} & set(name.split(b"/")) or b"\0" in name:
        raise RepositoryError(f"{text[:200]!r} leaves the place it is unpacked to", where=str(tar.name))
    return name


def _refused(member: tarfile.TarInfo, tar: tarfile.TarFile, problem: str) -> RepositoryError:
    return RepositoryError(f"{member.name[:200]!r} {problem}", where=str(tar.name))
