"""Trees written as one tarball."""

from __future__ import annotations

import tarfile
from typing import IO

from coreimage.client.tree import Entry, Tree, as_text

_TYPES: dict[str, bytes] = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def write_tar(tree: Tree, file: IO[bytes]) -> None:
    """Write a tree as an uncompressed tarball: the same bytes for the same tree.

    A folder's content follows it at once, as GNU tar sets a folder's time when it believes to have left it.
    """
    entries = list(tree.entries())
    by_name = {entry.name: entry for entry in entries}
    written: dict[bytes, bytes] = {}
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(entries, key=lambda entry: entry.name.split(b"/")):
            first = entry.target if entry.kind == "link" else entry.name
            link_to = written.setdefault(first, entry.name)
            if link_to != entry.name:
                tar.addfile(tar_member(entry, link_to=link_to))
            elif by_name[first].kind == "file":
                with tree.open(first) as content:
                    tar.addfile(tar_member(by_name[first], name=entry.name), content)
            else:
                tar.addfile(tar_member(by_name[first], name=entry.name))


def tar_member(entry: Entry, *, name: bytes = b"", link_to: bytes | None = None) -> tarfile.TarInfo:
    """Return the header of an entry.

    Args:
        entry: The entry.
        name: Another name for it.
        link_to: Makes it a hard link to this name.
    """
    member = tarfile.TarInfo(as_text(name or entry.name))
    member.type = _TYPES[entry.kind] if link_to is None else tarfile.LNKTYPE
    member.linkname = as_text(entry.target if link_to is None else link_to)
    member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
    member.devmajor, member.devminor = entry.device
    if link_to is None:
        member.size = entry.size_bytes
        member.pax_headers = {key: as_text(value) for key, value in entry.records}
    return member
