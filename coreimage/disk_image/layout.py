"""Where everything is on the disk: sector numbers, worked out before anything is written."""

from __future__ import annotations

import uuid

from coreimage.disk_image.gadget import Gadget, Role, Schema, Structure
from coreimage.errors import BuildError
from coreimage.model import Architecture, Value

SECTOR_BYTES = 512
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
        """The same for the same image version, so that two assemblies of it are equal."""
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
    """`number` counts from 1."""

    number: int
    structure: Structure


class TableEntry(Extent):
    """One partition as a disk has it."""

    name: str
    type_guid: str
    guid: str


class Layout(Value):
    """`partitions` are in the table, in its order; `bare` are not, and have the number 0."""

    table: Schema
    disk_id: str | None
    size_bytes: int
    partitions: tuple[Partition, ...]
    bare: tuple[Partition, ...] = ()

    def by_role(self, role: Role) -> Partition:
        return next(partition for partition in self.partitions if partition.structure.role == role)

    def by_name(self, name: str) -> Partition | None:
        return next((one for one in (*self.partitions, *self.bare) if one.structure.name == name), None)


def image_size_bytes(size_gb: int) -> int:
    """97.5 % of so many 10^9 bytes, in whole sectors, so that it fits on real memory cards (2015's rule)."""
    return size_gb * 1000 * 1000 * 975 // SECTOR_BYTES * SECTOR_BYTES


def plan_layout(gadget: Gadget, size_bytes: int) -> Layout:
    """Raises BuildError naming the structure that overlaps another or does not fit."""
    disk = size_bytes // SECTOR_BYTES
    free = FIRST_USABLE[gadget.volume.schema_]
    placed: list[Partition] = []
    for structure in gadget.structures:
        if not structure.is_boot_record:
            number = sum(one.number > 0 for one in placed) + 1 if structure.is_partition else 0
            placed.append(_place(number, structure, free, disk))
            free = placed[-1].last + 1
    return Layout(
        table=gadget.volume.schema_,
        disk_id=gadget.volume.id,
        size_bytes=size_bytes,
        partitions=tuple(one for one in placed if one.number),
        bare=tuple(one for one in placed if not one.number),
    )


def _place(number: int, structure: Structure, free: int, disk: int) -> Partition:
    first = _first(structure, free)
    if first < free:
        raise BuildError(
            f"starts at sector {first}, but the disk is taken up to sector {free - 1}",
            where=f"structure {structure.name}",
            resolution="mend its offset in meta/gadget.yaml, or leave it out: then it follows the one before",
        )
    # The last MiB stays free: the backup of a GPT is there, and 2015's partitions ended before it too.
    after_last = disk - ALIGNMENT_SECTORS
    end = (
        first + structure.size // SECTOR_BYTES
        if structure.size
        else after_last // ALIGNMENT_SECTORS * ALIGNMENT_SECTORS
    )
    size_bytes = (end - first) * SECTOR_BYTES
    if end > after_last or size_bytes < max(structure.min_size, SECTOR_BYTES):
        needed = (first * SECTOR_BYTES) + max(structure.size or 0, structure.min_size)
        raise BuildError(
            f"does not fit: it needs the disk to have {needed} bytes and {ALIGNMENT_SECTORS * SECTOR_BYTES} free "
            f"behind them, and the disk has {disk * SECTOR_BYTES}",
            where=f"structure {structure.name}",
            resolution="make the image larger (--size), or the structure smaller in meta/gadget.yaml",
        )
    return Partition(number=number, structure=structure, first=first, last=end - 1)


def _first(structure: Structure, free: int) -> int:
    if structure.offset is not None:
        return structure.offset // SECTOR_BYTES
    return max(FIRST_SECTOR, -(-free // ALIGNMENT_SECTORS) * ALIGNMENT_SECTORS) if structure.is_partition else free
