"""Block maps (bmap 2.0), with which bmaptool writes an image to a card or stick without its empty part.

Blocks that are not listed keep whatever the medium held before. So the map lists, beside all that was written, what
ext4 takes for zero without having been told: inode tables, bitmaps and journals.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from coreimage.disk_image.holes import extents
from coreimage.disk_image.table import read_partitions
from coreimage.model import Value
from coreimage.process import Run

BLOCK_BYTES = 4096
_EXT4_SUPERBLOCK = 1024
_EXT4_MAGIC = 0x38, b"\x53\xef"
_JOURNAL_INODE = 8
_TABLES = re.compile(r"(?:Inode table|Block bitmap|Inode bitmap) at (\d+)(?:-(\d+))?")
_EXTENT = re.compile(r"\(\d+(?:-\d+)?\):(\d+)(?:-(\d+))?")
_HOLE_FOR_CHECKSUM = "0" * 64

_HEAD = """<?xml version="1.0" ?>
<bmap version="2.0">
    <ImageSize> {image_bytes} </ImageSize>
    <BlockSize> {block_bytes} </BlockSize>
    <BlocksCount> {blocks} </BlocksCount>
    <MappedBlocksCount> {mapped} </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> {checksum} </BmapFileChecksum>
    <BlockMap>
"""
_TAIL = "    </BlockMap>\n</bmap>\n"


class BlockRange(Value):
    """Blocks of 4096 bytes; `last` belongs to it."""

    first: int
    last: int


def write_bmap(image: Path, target: Path, *, run: Run) -> Path:
    """The block map of a raw image whose empty part is holes."""
    size_bytes = image.stat().st_size
    blocks = -(-size_bytes // BLOCK_BYTES)
    ranges = merged([*_written(image), *_taken_for_zero(image, run)], blocks)
    text = bmap_text(size_bytes, ranges, _digests(image, ranges))
    target.write_text(text, "utf-8")
    return target


def bmap_text(size_bytes: int, ranges: Iterable[BlockRange], digests: Iterable[str]) -> str:
    """Pure: the document, with its own digest in it (computed over the text with zeros in that place)."""
    listed = list(ranges)
    lines = "".join(
        f'        <Range chksum="{digest}"> {one.first}{f"-{one.last}" if one.last > one.first else ""} </Range>\n'
        for one, digest in zip(listed, digests, strict=True)
    )
    fields = {
        "image_bytes": size_bytes,
        "block_bytes": BLOCK_BYTES,
        "blocks": -(-size_bytes // BLOCK_BYTES),
        "mapped": sum(one.last - one.first + 1 for one in listed),
    }
    blank = _HEAD.format(**fields, checksum=_HOLE_FOR_CHECKSUM) + lines + _TAIL
    return _HEAD.format(**fields, checksum=hashlib.sha256(blank.encode()).hexdigest()) + lines + _TAIL


def merged(ranges: Iterable[BlockRange], blocks: int) -> tuple[BlockRange, ...]:
    """Pure: sorted, without overlaps, touching ones joined, none beyond the image's last block."""
    result: list[BlockRange] = []
    for one in sorted(ranges, key=lambda each: each.first):
        last = min(one.last, blocks - 1)
        if result and one.first <= result[-1].last + 1:
            result[-1] = BlockRange(first=result[-1].first, last=max(last, result[-1].last))
        else:
            result.append(BlockRange(first=one.first, last=last))
    return tuple(result)


def _written(image: Path) -> Iterator[BlockRange]:
    with image.open("rb") as file:
        for start, stop in extents(file.fileno()):
            yield BlockRange(first=start // BLOCK_BYTES, last=(stop - 1) // BLOCK_BYTES)


def _taken_for_zero(image: Path, run: Run) -> Iterator[BlockRange]:
    with image.open("rb") as file:
        for entry in read_partitions(image):
            file.seek(entry.offset_bytes + _EXT4_SUPERBLOCK + _EXT4_MAGIC[0])
            if file.read(2) == _EXT4_MAGIC[1]:
                place = f"{image}?offset={entry.offset_bytes}"
                text = run(["dumpe2fs", place]).output
                journal = run(["debugfs", "-R", f"stat <{_JOURNAL_INODE}>", place]).output
                yield from _blocks(entry.offset_bytes, _block_bytes(text), _TABLES.findall(text))
                yield from _blocks(entry.offset_bytes, _block_bytes(text), _EXTENT.findall(journal))


def _block_bytes(text: str) -> int:
    found = re.search(r"^Block size:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else BLOCK_BYTES


def _blocks(offset_bytes: int, block_bytes: int, found: Iterable[tuple[str, str]]) -> Iterator[BlockRange]:
    for first, last in found:
        start_bytes = offset_bytes + int(first) * block_bytes
        stop_bytes = offset_bytes + (int(last or first) + 1) * block_bytes
        yield BlockRange(first=start_bytes // BLOCK_BYTES, last=(stop_bytes - 1) // BLOCK_BYTES)


def _digests(image: Path, ranges: Iterable[BlockRange]) -> Iterator[str]:
    with image.open("rb") as file:
        for one in ranges:
            file.seek(one.first * BLOCK_BYTES)
            digest, left = hashlib.sha256(), (one.last - one.first + 1) * BLOCK_BYTES
            while left and (chunk := file.read(min(left, 1 << 20))):
                digest.update(chunk)
                left -= len(chunk)
            yield digest.hexdigest()
