"""Block maps (bmap 2.0), with which bmaptool writes an image to a card or stick without its empty part.

Blocks that are not listed keep whatever the medium held before, so zeros that somebody relies on have to be listed.
Which blocks are in use, the file systems say themselves: where the image file has holes differs from copy to copy.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from coreimage.disk_image.table import read_partitions
from coreimage.errors import BuildError
from coreimage.model import Value
from coreimage.process import Run

BLOCK_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_EXT4_MAGIC = 1024 + 0x38, b"\x53\xef"
"""Where in a file system (ext4 on-disk format, "super block"), and what."""
_FAT32_MAGIC = 82, b"FAT32   "
_FAT32 = struct.Struct("<11xHBHB19xI")
"""From the boot sector: bytes a sector, sectors a cluster, reserved sectors, tables, sectors of a table (FAT: General
Overview of On-Disk Format, §3)."""
_FREE = re.compile(r"^\s+Free blocks: (.*)$", re.MULTILINE)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
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
    """The block map of a raw image: the same for the same bytes, wherever the file has holes."""
    size_bytes = image.stat().st_size
    blocks = -(-size_bytes // BLOCK_BYTES)
    ranges = merged(_used(image, target.parent, run), blocks)
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


def _dump(image: Path, offset_bytes: int, work: Path, run: Run) -> str:
    """Of a copy of its metadata: dumpe2fs 1.47.2 takes the name of a file with an offset for that of a label."""
    with tempfile.TemporaryDirectory(prefix="metadata-", dir=work) as folder:
        metadata = Path(folder, "metadata")
        run(["e2image", "-r", "-o", str(offset_bytes), image, metadata])
        return run(["dumpe2fs", metadata]).output


def _used(image: Path, work: Path, run: Run) -> Iterator[BlockRange]:
    """What the file systems use; everything else is listed whole, if there is anything in it."""
    partitions = sorted(read_partitions(image), key=lambda entry: entry.first)
    with image.open("rb") as file:
        end_bytes = 0
        for entry in partitions:
            yield from _whole(file, end_bytes, entry.offset_bytes)
            end_bytes = entry.offset_bytes + entry.size_bytes
            if _has(file, entry.offset_bytes, *_EXT4_MAGIC):
                yield from _placed(entry.offset_bytes, *ext4_used(_dump(image, entry.offset_bytes, work, run)))
            elif _has(file, entry.offset_bytes, *_FAT32_MAGIC):
                yield from _placed(entry.offset_bytes, 1, fat32_used(file, entry.offset_bytes))
            else:
                yield from _whole(file, entry.offset_bytes, end_bytes)
        yield from _whole(file, end_bytes, image.stat().st_size)


def _has(file: BinaryIO, start_bytes: int, offset_bytes: int, magic: bytes) -> bool:
    file.seek(start_bytes + offset_bytes)
    return file.read(len(magic)) == magic


def _whole(file: BinaryIO, start_bytes: int, end_bytes: int) -> Iterator[BlockRange]:
    for start in range(start_bytes, end_bytes, _CHUNK_BYTES):
        file.seek(start)
        if file.read(min(_CHUNK_BYTES, end_bytes - start)).strip(b"\0"):
            yield from _placed(0, 1, [(start_bytes, end_bytes)])
            return


def ext4_used(dump: str) -> tuple[int, list[tuple[int, int]]]:
    """Pure, of what dumpe2fs prints: the bytes of a block, and the blocks that are not free, ends excluded."""
    block_bytes, count = (_number(dump, what) for what in ("Block size", "Block count"))
    free = [(int(a), int(b or a) + 1) for found in _FREE.findall(dump) for a, b in _RANGE.findall(found)]
    edges = [0, *(edge for start, end in sorted(free) for edge in (start, end)), count]
    return block_bytes, [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]


def _number(dump: str, what: str) -> int:
    found = re.search(rf"^{what}:\s+(\d+)", dump, re.MULTILINE)
    if not found:
        raise BuildError(f"dumpe2fs gives no {what.lower()}", resolution="report this with the version of e2fsprogs")
    return int(found[1])


def fat32_used(file: BinaryIO, start_bytes: int) -> list[tuple[int, int]]:
    """Of the file system that begins there: all before the clusters, and those in use; bytes, ends excluded."""
    file.seek(start_bytes)
    sector_bytes, per_cluster, reserved, tables, per_table = _FAT32.unpack(file.read(_FAT32.size))
    file.seek(start_bytes + reserved * sector_bytes)
    table = array("I", file.read(per_table * sector_bytes))
    clusters_bytes, cluster_bytes = (reserved + tables * per_table) * sector_bytes, per_cluster * sector_bytes
    # The first two entries are of no cluster.
    starts = [clusters_bytes + number * cluster_bytes for number, entry in enumerate(table[2:]) if entry]
    return [(0, clusters_bytes), *((start, start + cluster_bytes) for start in starts)]


def _placed(offset_bytes: int, unit_bytes: int, ranges: Iterable[tuple[int, int]]) -> Iterator[BlockRange]:
    for start, end in ranges:
        start_bytes, end_bytes = offset_bytes + start * unit_bytes, offset_bytes + end * unit_bytes
        yield BlockRange(first=start_bytes // BLOCK_BYTES, last=(end_bytes - 1) // BLOCK_BYTES)


def _digests(image: Path, ranges: Iterable[BlockRange]) -> Iterator[str]:
    with image.open("rb") as file:
        for one in ranges:
            file.seek(one.first * BLOCK_BYTES)
            digest, left = hashlib.sha256(), (one.last - one.first + 1) * BLOCK_BYTES
            while left and (chunk := file.read(min(left, 1 << 20))):
                digest.update(chunk)
                left -= len(chunk)
            yield digest.hexdigest()
