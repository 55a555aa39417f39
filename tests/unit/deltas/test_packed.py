"""Where a packed stream lies in a file, and what may have made it."""

from __future__ import annotations

import gzip
import lzma
import struct

import pytest

from coreimage.deltas.packed import Packed, packed_part, packers_of

SETUP_SECTORS, OFFSET = 2, 700


def kernel(stream: bytes, version: int = 0x20F) -> bytes:
    """As Documentation/arch/x86/boot.rst describes it; all but gzip's stream has its size behind it."""
    size = b"" if stream.startswith(b"\x1f\x8b") else struct.pack("<I", len(stream))
    head = bytearray((SETUP_SECTORS + 1) * 512)
    head[0x1F1] = SETUP_SECTORS
    head[0x202:0x208] = b"HdrS" + struct.pack("<H", version)
    head[0x248:0x250] = struct.pack("<II", OFFSET, len(stream + size))
    return bytes(head) + bytes(OFFSET) + stream + size + b"behind"


@pytest.mark.parametrize(
    ("kind", "stream"),
    [("gzip", gzip.compress(b"x", mtime=0)), ("xz", lzma.compress(b"x")), ("lz4", b"\x02\x21\x4c\x18rest")],
)
def test_a_kernel_has_its_stream_inside(kind: str, stream: bytes) -> None:
    start = (SETUP_SECTORS + 1) * 512 + OFFSET
    assert packed_part(kernel(stream)) == Packed(start, start + len(stream), kind)
    assert packed_part(kernel(stream, version=0x207)) is None
    assert packed_part(stream) == Packed(0, len(stream), kind)


@pytest.mark.parametrize(("size", "packers"), [(1 << 20, ["xz-crc64-1MiB"]), (32 << 20, [])])
def test_a_dictionary_that_takes_too_much_memory_is_not_tried(size: int, packers: list[str]) -> None:
    stream = lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": size}])
    assert list(packers_of("xz", stream)) == packers
