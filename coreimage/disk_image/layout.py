"""Where everything is on the disk: sector numbers, worked out before anything is written."""

from __future__ import annotations

import uuid

from coreimage.disk_image.gadget import Gadget, Role, Structure
from coreimage.errors import BuildError
from coreimage.model import Architecture, Value

SECTOR_BYTES = 512
FIRST_SECTOR = 8192
"""Where the first partition starts: room for the boot loaders of boards (BeagleBone's u-boot.img ends before 4 MiB)."""
ALIGNMENT_SECTORS = 2048
TABLE_SECTORS = 33
"""One header and 128 entries of 128 bytes, at both ends of the disk."""
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


class Partition(Value):
    """`number` counts from 1; `last` is the last sector that belongs to it."""

    number: int
    structure: Structure
    first: int
    last: int

    @property
    def offset_bytes(self) -> int:
        return self.first * SECTOR_BYTES

    @property
    def size_bytes(self) -> int:
        return (self.last - self.first + 1) * SECTOR_BYTES


class Layout(Value):
    size_bytes: int
    partitions: tuple[Partition, ...]

    def by_role(self, role: Role) -> Partition:
        return next(partition for partition in self.partitions if partition.structure.role == role)


def image_size_bytes(size_gb: int) -> int:
    """97.5 % of so many 10^9 bytes, in whole sectors, so that it fits on real memory cards (2015's rule)."""
    return size_gb * 1000 * 1000 * 975 // SECTOR_BYTES * SECTOR_BYTES


def plan_layout(gadget: Gadget, size_bytes: int) -> Layout:
    """Raises BuildError naming the structure that overlaps another or does not fit."""
    after_last = size_bytes // SECTOR_BYTES - TABLE_SECTORS
    partitions: list[Partition] = []
    free = FIRST_SECTOR
    for number, structure in enumerate(gadget.structures, start=1):
        partition = _place(number, structure, free, after_last)
        partitions.append(partition)
        free = _align_up(partition.last + 1)
    return Layout(size_bytes=size_bytes, partitions=tuple(partitions))


def _place(number: int, structure: Structure, free: int, after_last: int) -> Partition:
    first = free if structure.offset is None else structure.offset // SECTOR_BYTES
    if first < free:
        raise BuildError(
            f"starts at sector {first}, but the disk is taken up to sector {free - 1}",
            where=f"structure {structure.name}",
            resolution="mend its offset in meta/gadget.yaml, or leave it out: then it follows the one before",
        )
    end = (
        first + structure.size // SECTOR_BYTES
        if structure.size
        else after_last // ALIGNMENT_SECTORS * ALIGNMENT_SECTORS
    )
    size_bytes = (end - first) * SECTOR_BYTES
    if end > after_last or size_bytes < max(structure.min_size, SECTOR_BYTES):
        needed = (first * SECTOR_BYTES) + max(structure.size or 0, structure.min_size)
        raise BuildError(
            f"does not fit: it needs the disk to have {needed} bytes and room for the table at its end, "
            f"and the disk has {(after_last + TABLE_SECTORS) * SECTOR_BYTES}",
            where=f"structure {structure.name}",
            resolution="make the image larger (--size), or the structure smaller in meta/gadget.yaml",
        )
    return Partition(number=number, structure=structure, first=first, last=end - 1)


def _align_up(sector: int) -> int:
    return -(-sector // ALIGNMENT_SECTORS) * ALIGNMENT_SECTORS
