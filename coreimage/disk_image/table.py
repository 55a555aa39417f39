"""The partition table of a disk image, of either kind, and the raw bytes that lie outside of filesystems."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from coreimage.disk_image import gpt, mbr
from coreimage.disk_image.gadget.structure import BOOT_CODE_BYTES, SECTOR_BYTES, Gadget, OffsetWrite, Structure
from coreimage.disk_image.layout import TABLE_SECTORS, ImageIdentity, Layout, Partition, TableEntry
from coreimage.errors import BuildError, VerificationError


def write_table(image: Path, layout: Layout, identity: ImageIdentity) -> None:
    """Give an image its size and its partition table. Boot code in sector 0 stays."""
    with image.open("r+b") as file:
        file.truncate(layout.size_bytes)
        file.seek(BOOT_CODE_BYTES)
        if layout.table == "mbr":
            file.write(mbr.table_bytes(layout, identity))
            return
        primary, backup = gpt.table_bytes(layout, identity)
        file.write(primary[BOOT_CODE_BYTES:])
        file.seek(layout.size_bytes - TABLE_SECTORS * SECTOR_BYTES)
        file.write(backup)


def read_partitions(image: Path) -> tuple[TableEntry, ...]:
    """Read the partitions of a disk image, in the order of its table.

    Raises:
        VerificationError: It has no valid partition table.
    """
    try:
        return gpt.read_table(image)
    except VerificationError:
        entries = mbr.read_table(image)
        if not entries:
            raise
        return entries


def write_raw(image: Path, gadget: Gadget, folder: Path, layout: Layout) -> None:
    """Write the gadget's images at their places, then the sector numbers that `offset-write` asks for.

    Args:
        image: The disk image, changed in place.
        gadget: Which images there are.
        folder: Where its files are.
        layout: Where its structures are.

    Raises:
        BuildError: The structure whose image does not fit, or whose number would be written over something else.
    """
    with image.open("r+b") as file:
        for structure in gadget.structures:
            _write_images(file, structure, folder, layout)
        for structure in gadget.structures:
            partition = layout.by_name(structure.name)
            if structure.offset_write and partition:
                _write_offset(file, structure, structure.offset_write, partition, layout)


def _write_images(file: BinaryIO, structure: Structure, folder: Path, layout: Layout) -> None:
    partition = layout.by_name(structure.name)
    start_bytes = partition.offset_bytes if partition else 0
    room_bytes = partition.size_bytes if partition else structure.size_bytes or BOOT_CODE_BYTES
    free_bytes = 0
    for content in structure.content:
        if content.image is None:
            continue
        image = (folder / content.image).read_bytes()
        offset_bytes = free_bytes if content.offset_bytes is None else content.offset_bytes
        size_bytes = len(image) if content.size_bytes is None else content.size_bytes
        end_bytes = offset_bytes + size_bytes
        if offset_bytes < free_bytes:
            raise _misplaced(structure, f"its image {content.image} begins inside the one before")
        if len(image) > size_bytes:
            problem = f"its image {content.image} has {len(image)} bytes, more than its size {size_bytes}"
            raise _misplaced(structure, problem)
        if end_bytes > room_bytes:
            problem = f"its image {content.image} ends at byte {end_bytes}, and it has {room_bytes}"
            raise _misplaced(structure, problem)
        file.seek(start_bytes + offset_bytes)
        file.write(image)
        free_bytes = end_bytes


def _write_offset(
    file: BinaryIO, structure: Structure, written: OffsetWrite, partition: Partition, layout: Layout
) -> None:
    base = layout.by_name(written.relative_to)
    at_bytes = (base.offset_bytes if base else 0) + written.offset_bytes
    if written.offset_bytes + 4 > (base.size_bytes if base else BOOT_CODE_BYTES):
        raise _misplaced(structure, f"its offset-write to byte {at_bytes} would hit something else")
    file.seek(at_bytes)
    file.write(struct.pack("<I", partition.first))


def _misplaced(structure: Structure, problem: str) -> BuildError:
    return BuildError(problem, where=f"structure {structure.name}", resolution="correct it in meta/gadget.yaml")
