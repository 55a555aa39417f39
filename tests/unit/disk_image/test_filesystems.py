from __future__ import annotations

import pytest

from coreimage.disk_image.filesystems import honours_epoch, used_inodes


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("mke2fs 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library version 1.47.0", False),
        ("mke2fs 1.47.1 (20-May-2024)", True),
        ("mke2fs 1.47.2 (1-Jan-2025)", True),
        ("mke2fs 1.46.9 (1-Jan-2024)", False),
        ("something else", False),
    ],
)
def test_only_releases_known_to_honour_the_epoch_are_trusted(version: str, expected: bool) -> None:
    assert honours_epoch(version) is expected


def test_used_inodes_of_dumpe2fs() -> None:
    dump = "Inode count:              24\nFree inodes:   3\n  Free inodes: 13-16\n  Free inodes: 17, 19-24\n"
    assert list(used_inodes(dump)) == [2, 11, 12, 18]
