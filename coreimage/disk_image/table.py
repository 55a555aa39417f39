"""The partition table of a disk image, of either kind, and the raw bytes that lie outside of file systems."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from coreimage.disk_image import gpt, mbr
from coreimage.disk_image.gadget import Gadget, OffsetWrite, Structure
from coreimage.disk_image.layout import SECTOR_BYTES, TABLE_SECTORS, ImageIdentity, Layout, Partition, TableEntry
from coreimage.errors import BuildError, VerificationError

_TABLE_OFFSET = 440
"""Before it, in sector 0, there is boot code."""


def write_table(image: Path, layout: Layout, identity: ImageIdentity) -> None:
    """Gives the image its size and its table; boot code that is there already stays."""
    with image.open("r+b") as file:
        file.truncate(layout.size_bytes)
        file.seek(_TABLE_OFFSET)
        if layout.table == "mbr":
            file.write(mbr.table_bytes(layout, identity))
            return
        primary, backup = gpt.table_bytes(layout, identity)
        file.write(primary[_TABLE_OFFSET:])
        file.seek(layout.size_bytes - TABLE_SECTORS * SECTOR_BYTES)
        file.write(backup)


def read_partitions(image: Path) -> tuple[TableEntry, ...]:
    """The partitions of a disk image in the order of its table. Raises VerificationError when it has none."""
    try:
        return gpt.read_table(image)
    except VerificationError:
        found = mbr.read_table(image)
        if not found:
            raise
        return found


def write_raw(image: Path, gadget: Gadget, folder: Path, layout: Layout) -> None:
    """Writes the images of the gadget at their places, then the sector numbers that `offset-write` asks for.

    Raises BuildError naming the structure whose image does not fit, or whose number would be written elsewhere than
    before the first partition.
    """
    with image.open("r+b") as file:
        for structure in gadget.structures:
            place = layout.by_name(structure.name)
            start_bytes = place.offset_bytes if place else 0
            room_bytes = place.size_bytes if place else structure.size or _TABLE_OFFSET
            _write_images(file, structure, folder, start_bytes, room_bytes)
        for structure in gadget.structures:
            place = layout.by_name(structure.name)
            if structure.offset_write and place:
                _write_offset(file, structure, structure.offset_write, place, layout)


def _write_images(file: BinaryIO, structure: Structure, folder: Path, start_bytes: int, room_bytes: int) -> None:
    free = 0
    for content in structure.content:
        if content.image is None:
            continue
        image = (folder / content.image).read_bytes()
        offset = free if content.offset is None else content.offset
        size = len(image) if content.size is None else content.size
        if offset < free:
            raise _misplaced(structure, f"its image {content.image} begins inside the one before")
        if len(image) > size:
            raise _misplaced(structure, f"its image {content.image} has {len(image)} bytes, more than its size {size}")
        if offset + size > room_bytes:
            problem = f"its image {content.image} ends at byte {offset + size}, and it has {room_bytes}"
            raise _misplaced(structure, problem)
        file.seek(start_bytes + offset)
        file.write(image)
        free = offset + size


def _write_offset(file: BinaryIO, structure: Structure, written: OffsetWrite, place: Partition, layout: Layout) -> None:
    base = layout.by_name(written.relative_to)
    at_bytes = (base.offset_bytes if base else 0) + written.offset_bytes
    if written.offset_bytes + 4 > (base.size_bytes if base else _TABLE_OFFSET):
        raise _misplaced(structure, f"its offset-write to byte {at_bytes} would hit something else")
    file.seek(at_bytes)
    file.write(struct.pack("<I", place.first))


def _misplaced(structure: Structure, problem: str) -> BuildError:
    return BuildError(problem, where=f"structure {structure.name}", resolution="mend it in meta/gadget.yaml")
