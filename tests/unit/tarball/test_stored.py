from __future__ import annotations

import lzma

import pytest

from coreimage.tarball import (
    stored_xz,
)


@pytest.mark.parametrize("size_bytes", [1, 10_240, 65_536, 65_537, 300_003])
def test_stored_xz_is_what_every_xz_reads(size_bytes: int) -> None:
    content = bytes(number * number % 251 for number in range(size_bytes))
    packed = stored_xz(content)
    assert lzma.decompress(packed, lzma.FORMAT_XZ) == content
    assert len(packed) < size_bytes + 100
    with pytest.raises(lzma.LZMAError):
        lzma.decompress(packed[:30] + bytes([packed[30] ^ 1]) + packed[31:])
