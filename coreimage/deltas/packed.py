"""Packed streams inside of files: where one lies, and what may have made it. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from coreimage.client.compact import PACKERS
from coreimage.deltas.cpio import parts
from coreimage.deltas.file_bytes import Bytes

_MAGICS = {
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b\x08": "gzip",
    b"\x02\x21\x4c\x18": "lz4",
}
_KERNEL_HEADER, _KERNEL_HEADER_END, _KERNEL_MAGIC = 0x202, 0x250, b"HdrS"
_PAYLOAD_SINCE = 0x208
_XZ_CHECKS = {1: "crc32", 4: "crc64"}
_LZMA2 = 0x21


@dataclass(frozen=True)
class Packed:
    """A stream of `kind` (xz, zstd, gzip, lz4) from `start` to `end`."""

    start: int
    end: int
    kind: str


def packed_part(content: Bytes) -> Packed | None:
    """Find the packed stream in a content; None where there is none.

    Most files are one stream; an initrd may begin with archives that are not packed, and a kernel has a stream in it.
    """
    start, end = _kernel_payload(content) or (_after_archives(content), len(content))
    kind = next((kind for magic, kind in _MAGICS.items() if content.startswith(magic, start)), None)
    return Packed(start, end, kind) if kind else None


def packers_of(kind: str, stream: bytes) -> Iterator[str]:
    """Yield the packers (`coreimage.client.compact.PACKERS`) that may have made a stream, the likeliest first."""
    if kind == "gzip":
        yield from ("gzip-9", "gzip-6") if stream[8:9] == b"\x02" else ("gzip-6", "gzip-9")
    elif kind == "lz4":
        yield "lz4-9"
    elif kind == "zstd":
        yield from (f"zstd-{threads}{level}" for level in (3, 9, 1, 5, 4, 2, 6, 7, 8) for threads in ("t-", ""))
    elif kind == "xz" and (packer := _xz_packer(stream)):
        yield packer


def _after_archives(content: Bytes) -> int:
    """Return where the archives that are not packed, and the zeros after them, end."""
    start = 0
    for part in parts(content):
        if part.name == b"" and part.size_bytes == len(content) - part.start:
            start = part.start
    near = content[start : start + 4096]
    return start + len(near) - len(near.lstrip(b"\0"))


def _kernel_payload(content: Bytes) -> tuple[int, int] | None:
    """Return start and end of the stream in an x86 kernel (Linux, Documentation/arch/x86/boot.rst, payload_offset).

    Behind all but gzip's stream stands the size of what is packed (scripts/Makefile.lib, size_append).
    """
    header = content[:_KERNEL_HEADER_END]
    if not header.startswith(_KERNEL_MAGIC, _KERNEL_HEADER) or len(header) < _KERNEL_HEADER_END:
        return None
    (version,) = struct.unpack_from("<H", header, 0x206)
    offset, size = struct.unpack_from("<II", header, 0x248)
    start = (header[0x1F1] + 1) * 512 + offset
    end = start + size - (0 if content.startswith(b"\x1f\x8b", start) else 4)
    return (start, end) if version >= _PAYLOAD_SINCE and start < end <= len(content) else None


def _xz_packer(stream: bytes) -> str | None:
    """Return the packer of an xz stream, by its headers (The .xz File Format, 2.1.1.2 and 3.1).

    Several threads write sizes into them.
    """
    stream = stream[:64].ljust(64, b"\0")
    flags = stream[13]
    at = 14
    for present in (flags & 0x40, flags & 0x80):
        while present and stream[at] & 0x80:
            at += 1
        at += 1 if present else 0
    check = _XZ_CHECKS.get(stream[7])
    if flags & 0x03 or stream[at] != _LZMA2 or check is None:
        return None
    bits = stream[at + 2]
    mebibytes = ((2 | bits & 1) << (bits // 2 + 11)) >> 20
    packer = f"xz-{'t-' if flags & 0xC0 else ''}{check}-{mebibytes}MiB"
    return packer if packer in PACKERS else None
