"""Where everything is on the disk: sector numbers, worked out before anything is written."""

from __future__ import annotations

import uuid

from coreimage.disk_image.gadget.structure import SECTOR_BYTES, Gadget, Role, Schema, Structure
from coreimage.errors import BuildError
from coreimage.model import Architecture, Value

FIRST_SECTOR = 8192
"""Where the first partition starts: room for the boot loaders of boards (BeagleBone's u-boot.img ends before 4 MiB)."""
ALIGNMENT_SECTORS = 2048
TABLE_SECTORS = 33
"""Of a GPT: one header and 128 entries of 128 bytes, at both ends of the disk."""
FIRST_USABLE: dict[Schema, int] = {"gpt": 1 + TABLE_SECTORS, "mbr": 1}
DEFAULT_SIZE_GB = 4

_NAMESPACE = uuid.UUID("6b7a1f0e-93b1-5c58-9a39-2f1d6a0f7c11")


class ImageIdentity(Value):
    """What an image is of. `epoch` (seconds, UTC) is the only time that gets into it."""

    channel: str
    device: str
    version: int
    architecture: Architecture
    epoch: int

    def uuid(self, purpose: str) -> uuid.UUID:
        """Return a UUID for a purpose: always the same one, so that two assemblies of an image version are equal."""
        return uuid.uuid5(_NAMESPACE, f"{self.channel}/{self.device}/{self.version}/{purpose}")


class Extent(Value):
    """Sectors of a disk; `last` is the last one that belongs to it."""

    first: int
    last: int

    @property
    def offset_bytes(self) -> int:
        return self.first * SECTOR_BYTES

    @property
    def size_bytes(self) -> int:
        return (self.last - self.first + 1) * SECTOR_BYTES


class Partition(Extent):
    """The place of a structure. `number` is that in the partition table, from 1, and 0 for a structure not in it."""

    number: int
    structure: Structure


class TableEntry(Extent):
    """A partition as a disk's table has it. `name` is the filesystem's label where the table has no names."""

    name: str
    type_guid: str
    guid: str


class Layout(Value):
    """The plan of a disk: `partitions` are in the table, in its order; `bare` ones are not."""

    table: Schema
    disk_id: str | None
    size_bytes: int
    partitions: tuple[Partition, ...]
    bare: tuple[Partition, ...] = ()

    def by_role(self, role: Role) -> Partition:
        return next(partition for partition in self.partitions if partition.structure.role == role)

    def by_name(self, name: str) -> Partition | None:
        placed = (*self.partitions, *self.bare)
        return next((partition for partition in placed if partition.structure.name == name), None)


def image_size_bytes(size_gb: int) -> int:
    """Return 97.5 % of a size in units of 10^9 bytes, in whole sectors, so that it fits on real cards (2015's rule)."""
    return size_gb * 1000 * 1000 * 975 // SECTOR_BYTES * SECTOR_BYTES


def plan_layout(gadget: Gadget, size_bytes: int) -> Layout:
    """Place the structures of a gadget on a disk, in their order.

    Raises:
        BuildError: The structure that overlaps the one before, or does not fit.
    """
    disk_sectors = size_bytes // SECTOR_BYTES
    free = FIRST_USABLE[gadget.volume.schema_]
    partitions: list[Partition] = []
    bare: list[Partition] = []
    for structure in gadget.structures:
        if structure.is_boot_record:
            continue
        number = len(partitions) + 1 if structure.is_partition else 0
        placed = _place(number, structure, free, disk_sectors)
        (partitions if structure.is_partition else bare).append(placed)
        free = placed.last + 1
    return Layout(
        table=gadget.volume.schema_,
        disk_id=gadget.volume.id,
        size_bytes=size_bytes,
        partitions=tuple(partitions),
        bare=tuple(bare),
    )


def _place(number: int, structure: Structure, free: int, disk_sectors: int) -> Partition:
    if structure.offset_bytes is not None:
        first = structure.offset_bytes // SECTOR_BYTES
    elif structure.is_partition:
        first = max(FIRST_SECTOR, -(-free // ALIGNMENT_SECTORS) * ALIGNMENT_SECTORS)
    else:
        first = free
    if first < free:
        raise BuildError(
            f"starts at sector {first}, but the disk is taken up to sector {free - 1}",
            where=f"structure {structure.name}",
            resolution="change its offset in meta/gadget.yaml, or leave it out: then it follows the one before",
        )
    # The last MiB stays free: the backup of a GPT is there, and 2015's partitions ended before it too.
    usable_end = disk_sectors - ALIGNMENT_SECTORS
    if structure.size_bytes:
        end = first + structure.size_bytes // SECTOR_BYTES
    else:
        end = usable_end // ALIGNMENT_SECTORS * ALIGNMENT_SECTORS
    size_bytes = (end - first) * SECTOR_BYTES
    if end > usable_end or size_bytes < max(structure.min_size_bytes, SECTOR_BYTES):
        needed_bytes = first * SECTOR_BYTES + max(structure.size_bytes or 0, structure.min_size_bytes)
        raise BuildError(
            f"does not fit: it needs the disk to have {needed_bytes} bytes and {ALIGNMENT_SECTORS * SECTOR_BYTES} free "
            f"behind them, and the disk has {disk_sectors * SECTOR_BYTES}",
            where=f"structure {structure.name}",
            resolution="make the image larger (--size), or the structure smaller in meta/gadget.yaml",
        )
    return Partition(number=number, structure=structure, first=first, last=end - 1)
