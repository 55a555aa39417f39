"""What must hold between the structures of a gadget, beyond the form of each key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from coreimage.errors import Problem

if TYPE_CHECKING:
    from coreimage.disk_image.gadget import Structure

REQUIRED_ROLES = ("system-boot", "system-a", "system-b", "system-data")
FILESYSTEMS = {"system-boot": "vfat", "system-a": "ext4", "system-b": "ext4", "system-data": "ext4"}
BOOT_CODE_BYTES = 440
"""What sector 0 has for code: after it come the disk's own number and the table (snapd grants 446, which hits both)."""
MBR_PARTITIONS = 4
SECTOR_BYTES = 512


def broken_rules(schema: str, structures: Sequence[Structure]) -> list[Problem]:
    return [
        *_missing_and_double(structures),
        *(Problem(s.name, text) for s in structures for text in _of_one(s, schema)),
        *(Problem(s.name, text) for s in structures for text in _offset_write(s, structures)),
        *(
            Problem(s.name, "only the last structure may have no size")
            for s in structures[:-1]
            if s.size is None and not s.is_boot_record
        ),
        *(
            Problem(s.name, f"schema mbr has room for {MBR_PARTITIONS} partitions, and this is one more")
            for s in [s for s in structures if s.is_partition][MBR_PARTITIONS:]
            if schema == "mbr"
        ),
    ]


def _missing_and_double(structures: Sequence[Structure]) -> Iterator[Problem]:
    roles = [structure.role for structure in structures]
    names = [structure.name for structure in structures]
    for role in REQUIRED_ROLES:
        if role not in roles:
            yield Problem("structure", f"no structure has the role {role}")
    for number, structure in enumerate(structures):
        if structure.role and structure.role in roles[:number]:
            yield Problem(structure.name, f"the role {structure.role} is there twice")
        if structure.name in names[:number]:
            yield Problem(structure.name, "the name is there twice")


def _of_one(structure: Structure, schema: str) -> Iterator[str]:
    yield from _table(structure, schema)
    yield from _filesystem(structure)
    yield from _sizes(structure)
    if structure.role == "bios-boot" and not structure.content and structure.offset_write is None:
        yield "the role bios-boot needs `offset-write: mbr+92`"


def _table(structure: Structure, schema: str) -> Iterator[str]:
    if structure.is_partition and schema == "gpt" and not structure.type_guid:
        yield f"schema gpt needs a GUID as type, and {structure.type} is none"
    if structure.is_partition and schema == "mbr" and not structure.type_byte:
        yield f"schema mbr needs two hex digits as type, and {structure.type} is not that"
    if structure.type == "bare" and structure.role:
        yield f"the role {structure.role} needs a partition, and type bare is none"
    if structure.is_boot_record and structure.offset:
        yield "the boot record is at offset 0"


def _filesystem(structure: Structure) -> Iterator[str]:
    wanted = FILESYSTEMS.get(structure.role or "")
    has = structure.filesystem if structure.filesystem != "none" else None
    if wanted and has != wanted:
        yield f"the role {structure.role} needs `filesystem: {wanted}`"
    if not wanted and has:
        yield f"only the roles {', '.join(FILESYSTEMS)} have a filesystem"
    if has and not structure.filesystem_label:
        yield "a filesystem needs `filesystem-label`"
    files = [content for content in structure.content if content.source]
    if files and structure.role != "system-boot":
        yield "files can only go on the structure with the role system-boot; others take an `image`"
    if wanted and len(files) != len(structure.content):
        yield "a structure with a filesystem takes no `image`"


def _sizes(structure: Structure) -> Iterator[str]:
    if structure.is_boot_record:
        if structure.size is not None and structure.size > BOOT_CODE_BYTES:
            yield f"a boot record has at most {BOOT_CODE_BYTES} bytes"
        if len(structure.content) > 1:
            yield "a boot record takes one image"
        return
    for key, size_bytes in (("size", structure.size), ("offset", structure.offset), ("min-size", structure.min_size)):
        if size_bytes is not None and size_bytes % SECTOR_BYTES:
            yield f"{key} {size_bytes} is not a multiple of {SECTOR_BYTES} bytes"


def _offset_write(structure: Structure, structures: Sequence[Structure]) -> Iterator[str]:
    written = structure.offset_write
    if written is None or not written.relative_to or written.relative_to == "mbr":
        return
    if written.relative_to not in {other.name for other in structures}:
        yield f"offset-write is relative to {written.relative_to!r}, which is no structure"
