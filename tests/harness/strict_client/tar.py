"""Tar archives as busybox before 1.26 and toybox read them: ustar, and GNU tar's long names. They skip pax headers, and
so cut a name that is only there.

GNU tar, which some recovery images have, takes extended attributes from pax headers: so do we, and refuse all else.
"""

from __future__ import annotations

import hashlib
import io
import lzma
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.harness.strict_client.refusal import require

_BLOCK = 512
REGULAR, HARD, SOFT, CHAR, BLOCK, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {REGULAR, HARD, SOFT, CHAR, BLOCK, FOLDER, FIFO}
_LONG_NAME, _LONG_LINK, _PAX = b"L", b"K", b"x"
_ATTRIBUTE = b"SCHILY.xattr."
_REMEMBERED = 64


@dataclass(frozen=True)
class Member:
    """`content` is that of a regular file, or b"" where only `digest`, its SHA-256, is kept.

    `link` is the text of a symbolic link or the name of a hard link's file.
    """

    name: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    link: str
    content: bytes
    digest: bytes
    device: tuple[int, int] = (0, 0)
    attributes: tuple[tuple[bytes, bytes], ...] = ()


_read: dict[bytes, tuple[Member, ...]] = {}
"""The members of the last tarballs by the digest of each: many versions, and many tests, share their files."""


def read_tarball(tarball: bytes) -> tuple[Member, ...]:
    """Gives the members of a `.tar.xz`, and the content of the first, which may say what is removed."""
    digest = hashlib.sha256(tarball).digest()
    members = _read.pop(digest, None)
    if members is None:
        with lzma.open(io.BytesIO(tarball), format=lzma.FORMAT_XZ) as plain:
            members = tuple(replace(each, content=b"") if at else each for at, each in enumerate(read_tar(plain)))
    _read[digest] = members
    if len(_read) > _REMEMBERED:
        del _read[next(iter(_read))]
    return members


def read_tar(plain: io.BufferedIOBase) -> Iterator[Member]:
    """Yields the members of a tar archive that is not compressed."""
    long_name, long_link, attributes = b"", b"", tuple[tuple[bytes, bytes], ...]()
    while (header := plain.read(_BLOCK)).strip(b"\0"):
        require(len(header) == _BLOCK and header[257:262] == b"ustar", "a header of ustar")
        require(_number(header[148:156]) == _sum(header), "the sum of a header")
        kind, size = header[156:157], _number(header[124:136])
        content = plain.read(size)
        require(len(content) == size and len(plain.read(-size % _BLOCK)) == -size % _BLOCK, "the whole archive")
        if kind == _LONG_NAME:
            long_name = content.rstrip(b"\0")
        elif kind == _LONG_LINK:
            long_link = content.rstrip(b"\0")
        elif kind == _PAX:
            attributes = tuple(_records(content))
        else:
            name, link = long_name or _name(header), long_link or _text(header[157:257])
            yield replace(_member(header, content, name, link), attributes=attributes)
            long_name, long_link, attributes = b"", b"", ()


def _member(header: bytes, content: bytes, name: bytes, link: bytes) -> Member:
    kind = header[156:157]
    shown = name.decode("utf-8", "surrogateescape")
    require(kind in _KINDS, f"{shown!r} is of the kind {kind!r}")
    require(kind == REGULAR or not content, f"{shown!r} has content")
    mode, uid, gid, mtime = (
        _number(header[start:end]) for start, end in ((100, 108), (108, 116), (116, 124), (136, 148))
    )
    return Member(
        name=shown.rstrip("/"),
        kind=kind,
        mode=mode & 0o7777,
        uid=uid,
        gid=gid,
        mtime=mtime,
        link=link.decode("utf-8", "surrogateescape") if kind in {SOFT, HARD} else "",
        content=content,
        digest=hashlib.sha256(content).digest(),
        device=(_number(header[329:337]), _number(header[337:345])) if kind in {CHAR, BLOCK} else (0, 0),
    )


def _name(header: bytes) -> bytes:
    """In POSIX's form a long name may be cut in two; in GNU's that place has other things."""
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" * bool(prefix) + _text(header[:100])


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    while content:
        length = int(content.partition(b" ")[0])
        record, content = content[:length], content[length:]
        key, _, value = record.partition(b" ")[2].partition(b"=")
        require(key.startswith(_ATTRIBUTE), f"{key!r} is in a pax header, which these tars skip")
        yield key, value[:-1]


def _text(stored: bytes) -> bytes:
    return stored.partition(b"\0")[0]


def _number(stored: bytes) -> int:
    """Octal digits, or GNU tar's binary numbers."""
    if stored[0] & 0x80:
        return int.from_bytes(bytes([stored[0] & 0x7F]) + stored[1:], "big")
    return int(_text(stored).strip() or b"0", 8)


def _sum(header: bytes) -> int:
    return sum(header[:148]) + sum(b" " * 8) + sum(header[156:])
