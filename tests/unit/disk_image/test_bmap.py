from __future__ import annotations

import hashlib
import re

from coreimage.disk_image.bmap import BlockRange, bmap_text, merged


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
