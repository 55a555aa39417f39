"""Block maps (bmap 2.0), with which bmaptool writes an image to a card or stick without its empty part.

Blocks that are not listed keep whatever the medium held before, so zeros that matter are listed too. The blocks in use
are those that the filesystems call used: holes of the image file differ from copy to copy.
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
from coreimage.host.process import Run
from coreimage.model import Value

BLOCK_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_EXT4_MAGIC = 1024 + 0x38, b"\x53\xef"
"""Offset in a filesystem and the bytes there (ext4 on-disk format, "super block")."""
_FAT32_MAGIC = 82, b"FAT32   "
_FAT32 = struct.Struct("<11xHBHB19xI")
"""In the boot sector: bytes per sector, sectors per cluster, reserved sectors, tables, sectors per table (FAT: General
Overview of On-Disk Format, §3)."""
_FREE = re.compile(r"^\s+Free blocks: (.*)$", re.MULTILINE)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_NO_CHECKSUM = "0" * 64

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
    """Blocks of 4096 bytes of an image; `last` is the last one that belongs to it."""

    first: int
    last: int


def write_bmap(image: Path, target: Path, *, run: Run) -> Path:
    """Write the block map of a raw image: the same for the same bytes, wherever the file has holes."""
    size_bytes = image.stat().st_size
    ranges = merged(_used_blocks(image, target.parent, run), -(-size_bytes // BLOCK_BYTES))
    text = bmap_text(size_bytes, ranges, _digests(image, ranges))
    target.write_text(text, "utf-8")
    return target


def bmap_text(size_bytes: int, ranges: Iterable[BlockRange], digests: Iterable[str]) -> str:
    """Return the document, with its own digest in it: that of the text with zeros in the digest's place."""
    listed = list(ranges)
    lines = ""
    for blocks, digest in zip(listed, digests, strict=True):
        text = f"{blocks.first}-{blocks.last}" if blocks.last > blocks.first else f"{blocks.first}"
        lines += f'        <Range chksum="{digest}"> {text} </Range>\n'
    fields = {
        "image_bytes": size_bytes,
        "block_bytes": BLOCK_BYTES,
        "blocks": -(-size_bytes // BLOCK_BYTES),
        "mapped": sum(blocks.last - blocks.first + 1 for blocks in listed),
    }
    blank = _HEAD.format(**fields, checksum=_NO_CHECKSUM) + lines + _TAIL
    return _HEAD.format(**fields, checksum=hashlib.sha256(blank.encode()).hexdigest()) + lines + _TAIL


def merged(ranges: Iterable[BlockRange], blocks: int) -> tuple[BlockRange, ...]:
    """Return ranges sorted, overlapping and touching ones joined, none beyond the last of an image's `blocks`."""
    result: list[BlockRange] = []
    for used in sorted(ranges, key=lambda each: each.first):
        last = min(used.last, blocks - 1)
        if result and used.first <= result[-1].last + 1:
            result[-1] = BlockRange(first=result[-1].first, last=max(last, result[-1].last))
        else:
            result.append(BlockRange(first=used.first, last=last))
    return tuple(result)


def _used_blocks(image: Path, work: Path, run: Run) -> Iterator[BlockRange]:
    """Return what the filesystems use, and each other part of the disk whole unless it is all zeros."""
    with image.open("rb") as file:
        end_bytes = 0
        for entry in sorted(read_partitions(image), key=lambda entry: entry.first):
            start_bytes = entry.offset_bytes
            yield from _unless_empty(file, end_bytes, start_bytes)
            end_bytes = start_bytes + entry.size_bytes
            if _has(file, start_bytes, *_EXT4_MAGIC):
                yield from _placed(start_bytes, *ext4_used(_dumpe2fs(image, start_bytes, work, run)))
            elif _has(file, start_bytes, *_FAT32_MAGIC):
                yield from _placed(start_bytes, 1, fat32_used(file, start_bytes))
            else:
                yield from _unless_empty(file, start_bytes, end_bytes)
        yield from _unless_empty(file, end_bytes, image.stat().st_size)


def _dumpe2fs(image: Path, offset_bytes: int, work: Path, run: Run) -> str:
    """Run dumpe2fs on a copy of the metadata: release 1.47.2 takes `FILE?offset=` for the name of a label."""
    with tempfile.TemporaryDirectory(prefix="metadata-", dir=work) as folder:
        metadata = Path(folder, "metadata")
        run(["e2image", "-r", "-o", str(offset_bytes), image, metadata])
        return run(["dumpe2fs", metadata]).output


def _has(file: BinaryIO, start_bytes: int, offset_bytes: int, magic: bytes) -> bool:
    file.seek(start_bytes + offset_bytes)
    return file.read(len(magic)) == magic


def _unless_empty(file: BinaryIO, start_bytes: int, end_bytes: int) -> Iterator[BlockRange]:
    for start in range(start_bytes, end_bytes, _CHUNK_BYTES):
        file.seek(start)
        if file.read(min(_CHUNK_BYTES, end_bytes - start)).strip(b"\0"):
            yield from _placed(0, 1, [(start_bytes, end_bytes)])
            return


def ext4_used(dump: str) -> tuple[int, list[tuple[int, int]]]:
    """Parse what dumpe2fs prints.

    Returns:
        The size of a block in bytes, and the ranges of blocks that are not free, ends excluded.
    """
    block_bytes, count = (_number(dump, field) for field in ("Block size", "Block count"))
    free = [(int(a), int(b or a) + 1) for ranges in _FREE.findall(dump) for a, b in _RANGE.findall(ranges)]
    edges = [0, *(edge for start, end in sorted(free) for edge in (start, end)), count]
    return block_bytes, [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]


def _number(dump: str, field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+)", dump, re.MULTILINE)
    if not match:
        raise BuildError(f"dumpe2fs gives no {field.lower()}", resolution="report this with the version of e2fsprogs")
    return int(match[1])


def fat32_used(file: BinaryIO, start_bytes: int) -> list[tuple[int, int]]:
    """Return what the FAT32 filesystem at `start_bytes` uses: all before the clusters, and the clusters in use.

    Ranges are in bytes from the filesystem's start, ends excluded.
    """
    file.seek(start_bytes)
    sector_bytes, sectors_per_cluster, reserved, tables, sectors_per_table = _FAT32.unpack(file.read(_FAT32.size))
    file.seek(start_bytes + reserved * sector_bytes)
    table = array("I", file.read(sectors_per_table * sector_bytes))
    clusters_bytes = (reserved + tables * sectors_per_table) * sector_bytes
    cluster_bytes = sectors_per_cluster * sector_bytes
    # The first two entries are of no cluster.
    starts = [clusters_bytes + number * cluster_bytes for number, entry in enumerate(table[2:]) if entry]
    return [(0, clusters_bytes), *((start, start + cluster_bytes) for start in starts)]


def _placed(offset_bytes: int, unit_bytes: int, ranges: Iterable[tuple[int, int]]) -> Iterator[BlockRange]:
    for start, end in ranges:
        start_bytes, end_bytes = offset_bytes + start * unit_bytes, offset_bytes + end * unit_bytes
        yield BlockRange(first=start_bytes // BLOCK_BYTES, last=(end_bytes - 1) // BLOCK_BYTES)


def _digests(image: Path, ranges: Iterable[BlockRange]) -> Iterator[str]:
    with image.open("rb") as file:
        for blocks in ranges:
            file.seek(blocks.first * BLOCK_BYTES)
            digest, left_bytes = hashlib.sha256(), (blocks.last - blocks.first + 1) * BLOCK_BYTES
            while left_bytes and (chunk := file.read(min(left_bytes, _CHUNK_BYTES))):
                digest.update(chunk)
                left_bytes -= len(chunk)
            yield digest.hexdigest()
