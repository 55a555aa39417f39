"""The GUID partition table as bytes (UEFI specification 2.10, §5.3)."""

from __future__ import annotations

import struct
import uuid
import zlib
from pathlib import Path

from coreimage.disk_image.gadget.structure import SECTOR_BYTES
from coreimage.disk_image.layout import TABLE_SECTORS, ImageIdentity, Layout, Partition, TableEntry
from coreimage.errors import VerificationError

_ENTRIES, _ENTRY_BYTES = 128, 128
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_SIGNATURE, _REVISION = b"EFI PART", 0x00010000


def table_bytes(layout: Layout, identity: ImageIdentity) -> tuple[bytes, bytes]:
    """Return the first 34 sectors of the disk, with zeros for boot code, and its last 33."""
    last_lba = layout.size_bytes // SECTOR_BYTES - 1
    entries = b"".join(_entry(partition, identity) for partition in layout.partitions)
    entries = entries.ljust(_ENTRIES * _ENTRY_BYTES, b"\0")
    disk = uuid.UUID(layout.disk_id) if layout.disk_id else identity.uuid("disk")
    primary = _header(entries, disk, own=1, other=last_lba, entries_lba=2)
    backup = _header(entries, disk, own=last_lba, other=1, entries_lba=last_lba - TABLE_SECTORS + 1)
    return _protective_mbr(last_lba) + primary + entries, entries + backup


def read_table(image: Path) -> tuple[TableEntry, ...]:
    """Read the partitions of a disk image, in the order of its table.

    Raises:
        VerificationError: It has no valid GUID partition table.
    """
    with image.open("rb") as file:
        file.seek(SECTOR_BYTES)
        header = file.read(SECTOR_BYTES)
        entries = file.read(_ENTRIES * _ENTRY_BYTES)
    fields = _HEADER.unpack_from(header)
    if fields[0] != _SIGNATURE or fields[3] != _header_crc(header) or fields[13] != zlib.crc32(entries):
        raise VerificationError("there is no valid GUID partition table", where=str(image))
    unpacked = (_ENTRY.unpack_from(entries, start) for start in range(0, len(entries), _ENTRY_BYTES))
    return tuple(
        TableEntry(
            name=name.decode("utf-16-le").rstrip("\0"),
            type_guid=str(uuid.UUID(bytes_le=kind)),
            guid=str(uuid.UUID(bytes_le=guid)),
            first=first,
            last=last,
        )
        for kind, guid, first, last, _, name in unpacked
        if any(kind)
    )


def _entry(partition: Partition, identity: ImageIdentity) -> bytes:
    structure = partition.structure
    own = uuid.UUID(structure.id) if structure.id else identity.uuid(f"partition/{structure.name}")
    return _ENTRY.pack(
        uuid.UUID(structure.type_guid).bytes_le,
        own.bytes_le,
        partition.first,
        partition.last,
        0,
        structure.name.encode("utf-16-le"),
    )


def _header(entries: bytes, disk: uuid.UUID, *, own: int, other: int, entries_lba: int) -> bytes:
    last_usable = max(own, other) - TABLE_SECTORS
    first_usable = 2 + len(entries) // SECTOR_BYTES
    fields = [own, other, first_usable, last_usable, disk.bytes_le, entries_lba, _ENTRIES, _ENTRY_BYTES]
    blank = _HEADER.pack(_SIGNATURE, _REVISION, _HEADER.size, 0, 0, *fields, zlib.crc32(entries))
    crc = zlib.crc32(blank)
    return _HEADER.pack(_SIGNATURE, _REVISION, _HEADER.size, crc, 0, *fields, zlib.crc32(entries)).ljust(
        SECTOR_BYTES, b"\0"
    )


def _header_crc(header: bytes) -> int:
    return zlib.crc32(header[:16] + bytes(4) + header[20 : _HEADER.size])


def _protective_mbr(last_lba: int) -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(last_lba, 0xFFFFFFFF))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"
