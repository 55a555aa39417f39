"""What a file tree is, down to the last attribute: entries, and one digest of all of them.

Names are bytes, as on disk: relative, `/`-separated, without `.` and `..`. A file with several names is a `file` under
the first of them (in byte order), and a `link` to that one under the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Literal, Protocol

Kind = Literal["file", "link", "folder", "symlink", "char", "block", "fifo"]
XATTR = "SCHILY.xattr."
"""Prefix of the pax records that carry extended attributes (star(5), GNU tar)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`target` is a symbolic link's text, or a link's other name. `size_bytes` and `sha256` are of a file's content.

    `records` are pax records: extended attributes (file capabilities and ACLs among them), sorted by key.
    """

    name: bytes
    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    records: tuple[tuple[str, bytes], ...] = ()
    size_bytes: int = 0
    sha256: bytes = b""


class Tree(Protocol):
    """Something that holds a tree: a folder, tarballs over each other, or a tree and what a delta makes of it."""

    def entries(self) -> Iterable[Entry]:
        """In the byte order of their names; further names of a file are links to the first."""
        ...

    def open(self, name: bytes) -> IO[bytes]:
        """The content of a file, seekable. Raises KeyError for a name that is none."""
        ...


def as_text(name: bytes) -> str:
    """As tarfile and JSON take names and values; any bytes come through it whole."""
    return name.decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def tree_sha256(entries: Iterable[Entry]) -> str:
    """The digest of a whole tree: equal for equal trees only. Entries come in the byte order of their names."""
    digest = hashlib.sha256(b"coreimage tree 1\n")
    for entry in entries:
        fields: list[bytes] = [entry.name, entry.kind.encode()]
        if entry.kind != "link":
            numbers = (entry.mode, entry.uid, entry.gid, entry.mtime, *entry.device, entry.size_bytes)
            fields += [b"%d" % number for number in numbers]
            fields += [part for key, value in entry.records for part in (key.encode(), value)]
        fields += [entry.target, entry.sha256]
        digest.update(b"".join(b"%d:%s" % (len(field), field) for field in fields) + b"\n")
    return digest.hexdigest()
