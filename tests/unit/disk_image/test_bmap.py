from __future__ import annotations

import hashlib
import io
import re
import struct

from coreimage.disk_image.bmap import BlockRange, bmap_text, ext4_used, fat32_used, merged


def test_ranges_are_sorted_joined_and_end_with_the_image() -> None:
    found = [BlockRange(first=8, last=9), BlockRange(first=0, last=3), BlockRange(first=2, last=4)]
    found += [BlockRange(first=5, last=5), BlockRange(first=20, last=99)]
    assert [(one.first, one.last) for one in merged(found, 30)] == [(0, 5), (8, 9), (20, 29)]


def test_the_document_holds_its_own_digest() -> None:
    text = bmap_text(3 * 4096 + 1, [BlockRange(first=0, last=0), BlockRange(first=2, last=3)], ["a" * 64, "b" * 64])
    digest = re.search(r"<BmapFileChecksum> (\w{64}) ", text)
    assert digest
    assert hashlib.sha256(text.replace(digest[1], "0" * 64).encode()).hexdigest() == digest[1]
    assert "<BlocksCount> 4 <" in text
    assert "<MappedBlocksCount> 3 <" in text
    assert f'<Range chksum="{"b" * 64}"> 2-3 </Range>' in text


DUMP = """Block count:              100
Block size:               4096
Group 0: (Blocks 0-49)
  Free blocks: 10-19, 40-49
Group 1: (Blocks 50-99)
  Free blocks: 50-59, 61
Group 2: none free
  Free blocks:
"""


def test_what_ext4_does_not_call_free_is_used() -> None:
    assert ext4_used(DUMP) == (4096, [(0, 10), (20, 40), (60, 61), (62, 100)])


def test_clusters_that_the_table_of_fat32_has_are_used_whatever_is_in_them() -> None:
    boot = bytearray(512)
    struct.pack_into("<HBHB", boot, 11, 512, 8, 4, 2)
    struct.pack_into("<I", boot, 36, 1)
    table = struct.pack("<8I", 0x0FFFFFF8, 0x0FFFFFFF, 0x0FFFFFF8, 0, 6, 0, 0x0FFFFFF8, 0).ljust(512, b"\0")
    image = io.BytesIO(b"before" + boot + bytes(3 * 512) + table)
    start = (4 + 2) * 512
    assert fat32_used(image, len(b"before")) == [
        (0, start),
        *((start + number * 4096, start + (number + 1) * 4096) for number in (0, 2, 4)),
    ]
