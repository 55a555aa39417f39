"""The DOS partition table, in sector 0, as most boards with U-Boot have it.

Addresses of cylinders, heads and sectors are the largest there are: all systems read the sector numbers behind them.
"""

from __future__ import annotations

import struct
from pathlib import Path

from coreimage.disk_image.gadget.structure import SECTOR_BYTES
from coreimage.disk_image.layout import ImageIdentity, Layout, Partition, TableEntry
from coreimage.errors import VerificationError

_ENTRY = struct.Struct("<B3sB3sII")
_ID_OFFSET, _TABLE_OFFSET, _ENTRIES = 440, 446, 4
_ACTIVE, _NO_CHS = 0x80, b"\xfe\xff\xff"
_SIGNATURE = b"\x55\xaa"
_PROTECTIVE = 0xEE
"""The type of the one entry that stands before a GPT."""
_EXT4_LABEL, _EXT4_MAGIC = (1024 + 0x78, 16), (1024 + 0x38, b"\x53\xef")
_FAT_LABEL, _FAT_MAGIC = (0x47, 11), (0x52, b"FAT32")


def table_bytes(layout: Layout, identity: ImageIdentity) -> bytes:
    """Return the disk's number and the table: the last 72 bytes of sector 0. The boot partition is the active one."""
    disk = int(layout.disk_id, 16) if layout.disk_id else identity.uuid("disk").int & 0xFFFFFFFF
    entries = b"".join(_entry(partition) for partition in layout.partitions)
    return struct.pack("<IH", disk, 0) + entries.ljust(_ENTRIES * _ENTRY.size, b"\0") + _SIGNATURE


def read_table(image: Path) -> tuple[TableEntry, ...]:
    """Read the partitions of a disk image. Their names are the labels of their filesystems.

    Raises:
        VerificationError: There is no table.
    """
    with image.open("rb") as file:
        sector = file.read(SECTOR_BYTES)
        if len(sector) != SECTOR_BYTES or not sector.endswith(_SIGNATURE):
            raise VerificationError("there is no valid partition table", where=str(image))
        disk = struct.unpack_from("<I", sector, _ID_OFFSET)[0]
        entries: list[TableEntry] = []
        for number in range(_ENTRIES):
            _, _, kind, _, first, count = _ENTRY.unpack_from(sector, _TABLE_OFFSET + number * _ENTRY.size)
            if not kind or kind == _PROTECTIVE:
                continue
            file.seek(first * SECTOR_BYTES)
            entries.append(
                TableEntry(
                    name=label_of(file.read(4096)),
                    type_guid=f"{kind:02x}",
                    guid=f"{disk:08x}-{len(entries) + 1:02x}",
                    first=first,
                    last=first + count - 1,
                )
            )
    return tuple(entries)


def label_of(head: bytes) -> str:
    """Return the label of the ext4 or FAT32 filesystem that begins with these bytes; empty when it is neither."""
    for (start, length), (place, magic) in ((_EXT4_LABEL, _EXT4_MAGIC), (_FAT_LABEL, _FAT_MAGIC)):
        if head[place : place + len(magic)] == magic:
            return head[start : start + length].rstrip(b"\0 ").decode("ascii", errors="replace")
    return ""


def _entry(partition: Partition) -> bytes:
    structure = partition.structure
    active = _ACTIVE if structure.role == "system-boot" else 0
    count = partition.last - partition.first + 1
    return _ENTRY.pack(active, _NO_CHS, int(structure.type_byte or "0", 16), _NO_CHS, partition.first, count)
