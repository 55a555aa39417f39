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
_PART_BYTES, _PATH_BYTES = 255, 4095
"""NAME_MAX and PATH_MAX (limits.h), the latter without its final zero."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a tree, and everything that is at it.

    Attributes:
        mtime: UNIX seconds.
        target: The text of a symbolic link; the other name of a `link`.
        device: Major and minor number of a device.
        records: Pax records, sorted by key: extended attributes, among them capabilities and ACLs.
        size_bytes: The size of a file's content.
        sha256: The digest of a file's content, as 32 bytes.
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
        """Return the entries in the byte order of their names; further names of a file are links to the first."""
        ...

    def open(self, name: bytes) -> IO[bytes]:
        """Open the content of a file, seekable. Raises KeyError for a name that is none."""
        ...


def as_text(name: bytes) -> str:
    """Decode a name or value for tarfile and JSON; `as_bytes` gives any bytes back as they were."""
    return name.decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> bytes:
    """Encode a name or value that came from tarfile, JSON or `as_text`."""
    return text.encode("utf-8", "surrogateescape")


def is_utf8(text: str) -> bool:
    """Return whether a name or keyword, as tarfile gives it, was UTF-8 in its archive."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def safe_name(text: str) -> str:
    """Return the name that a tree has for a member of an archive: without `./` before it and `/` behind it.

    Raises:
        ValueError: The name leaves the tree, or no file can have it. The text says so, and goes behind the name.
    """
    name = text.removeprefix("./").rstrip("/")
    parts = name.split("/")
    if "\0" in name or {"", ".", ".."} & set(parts):
        raise ValueError("leaves the place it is unpacked to")
    if len(as_bytes(name)) > _PATH_BYTES or any(len(as_bytes(part)) > _PART_BYTES for part in parts):
        raise ValueError("is longer than the name of a file can be")
    return name


def tree_sha256(entries: Iterable[Entry]) -> str:
    """Return the digest of a whole tree, equal for equal trees only.

    Args:
        entries: All entries, in the byte order of their names.
    """
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
