"""The parts of a content that may be cpio archives (an initrd is). Pure.

The `newc` form: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from coreimage.deltas.file_bytes import Bytes

MAGICS = (b"070701", b"070702")
_HEADER_BYTES = 110
_TRAILER = b"TRAILER!!!"
_CHUNK_BYTES = 1 << 16
_SIZE, _NAME_SIZE = slice(54, 62), slice(94, 102)


@dataclass(frozen=True)
class Part:
    """A part of a content.

    `name` is that of a member for its content, the same with `#` before for its header, and empty for all that is in
    no archive.
    """

    name: bytes
    start: int
    size_bytes: int

    def of(self, content: Bytes) -> bytes:
        """Return the bytes of the part."""
        return content[self.start : self.start + self.size_bytes]


def parts(content: Bytes) -> Iterator[Part]:
    """Divide a content into parts, in order; into one nameless part where it is no archive."""
    at = 0
    while content.startswith(MAGICS, at) and (member := _member(content, at)) is not None:
        name, start, size_bytes = member
        yield Part(b"#" + name, at, start - at)
        if size_bytes:
            yield Part(name, start, size_bytes)
        at = start + size_bytes
        padded = min(len(content), at + -at % 4)
        if name == _TRAILER:
            rest = _after_zeros(content, at)
            padded = rest if content.startswith(MAGICS, rest) else padded
        if padded > at:
            yield Part(b"", at, padded - at)
        at = padded
    if at < len(content):
        yield Part(b"", at, len(content) - at)


def _after_zeros(content: Bytes, at: int) -> int:
    """Return where the zeros that begin at `at` end."""
    for start in range(at, len(content), _CHUNK_BYTES):
        chunk = content[start : start + _CHUNK_BYTES]
        if rest := chunk.lstrip(b"\0"):
            return start + len(chunk) - len(rest)
    return len(content)


def _member(content: Bytes, at: int) -> tuple[bytes, int, int] | None:
    """Return the name of the member that begins at `at`, and start and size of its content; None for a broken
    header."""
    header = content[at : at + _HEADER_BYTES]
    try:
        size_bytes, name_bytes = int(header[_SIZE], 16), int(header[_NAME_SIZE], 16)
    except ValueError:
        return None
    name = content[at + _HEADER_BYTES : at + _HEADER_BYTES + name_bytes]
    start = at + _HEADER_BYTES + name_bytes
    start += -start % 4
    if name_bytes == 0 or start + size_bytes > len(content):
        return None
    return name.rstrip(b"\0"), start, size_bytes
