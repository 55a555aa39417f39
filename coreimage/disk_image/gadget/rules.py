"""What must hold between the keys and structures of a gadget. The form of each key is checked in `structure`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coreimage.disk_image.gadget.structure import BOOT_CODE_BYTES, SECTOR_BYTES, Gadget, Role, Schema, Structure

_FILESYSTEMS: dict[Role, str] = {"system-boot": "vfat", "system-a": "ext4", "system-b": "ext4", "system-data": "ext4"}
"""The roles that every gadget has, and the filesystem of each."""
_MBR_PARTITIONS = 4


def broken_rules(gadget: Gadget) -> Iterator[tuple[int | None, str]]:
    """Return every rule that a gadget breaks, with the number of the structure, or None for the gadget as a whole."""
    schema, structures = gadget.volume.schema_, gadget.structures
    roles = [structure.role for structure in structures]
    names = [structure.name for structure in structures]
    partitions = 0
    for role in _FILESYSTEMS:
        if role not in roles:
            yield None, f"no structure has the role {role}"
    for number, structure in enumerate(structures):
        texts = [*_table(structure, schema), *_filesystem(structure), *_sizes(structure)]
        texts += _offset_write(structure, names)
        if structure.role and structure.role in roles[:number]:
            texts.append(f"the role {structure.role} is there twice")
        if structure.name in names[:number]:
            texts.append("the name is there twice")
        if structure.size_bytes is None and not structure.is_boot_record and number < len(structures) - 1:
            texts.append("only the last structure may have no size")
        partitions += structure.is_partition
        if schema == "mbr" and structure.is_partition and partitions > _MBR_PARTITIONS:
            texts.append(f"schema mbr has room for {_MBR_PARTITIONS} partitions, and this is one more")
        for text in texts:
            yield number, text


def _table(structure: Structure, schema: Schema) -> Iterator[str]:
    if structure.is_partition and schema == "gpt" and not structure.type_guid:
        yield f"schema gpt needs a GUID as type, and {structure.type} is none"
    if structure.is_partition and schema == "mbr" and not structure.type_byte:
        yield f"schema mbr needs two hex digits as type, and {structure.type} is not that"
    if structure.type == "bare" and structure.role:
        yield f"the role {structure.role} needs a partition, and type bare is none"
    if structure.is_boot_record and structure.offset_bytes:
        yield "the boot record is at offset 0"


def _filesystem(structure: Structure) -> Iterator[str]:
    needed = _FILESYSTEMS.get(structure.role) if structure.role else None
    filesystem = structure.filesystem if structure.filesystem != "none" else None
    if needed and filesystem != needed:
        yield f"the role {structure.role} needs `filesystem: {needed}`"
    if not needed and filesystem:
        yield f"only the roles {', '.join(_FILESYSTEMS)} have a filesystem"
    if filesystem and not structure.filesystem_label:
        yield "a filesystem needs `filesystem-label`"
    files = [content for content in structure.content if content.source]
    if files and structure.role != "system-boot":
        yield "files can only go on the structure with the role system-boot; others take an `image`"
    if needed and len(files) != len(structure.content):
        yield "a structure with a filesystem takes no `image`"


def _sizes(structure: Structure) -> Iterator[str]:
    if structure.is_boot_record:
        if structure.size_bytes is not None and structure.size_bytes > BOOT_CODE_BYTES:
            yield f"a boot record has at most {BOOT_CODE_BYTES} bytes"
        if len(structure.content) > 1:
            yield "a boot record takes one image"
        return
    sizes = {"size": structure.size_bytes, "offset": structure.offset_bytes, "min-size": structure.min_size_bytes}
    for key, size_bytes in sizes.items():
        if size_bytes is not None and size_bytes % SECTOR_BYTES:
            yield f"{key} {size_bytes} is not a multiple of {SECTOR_BYTES} bytes"


def _offset_write(structure: Structure, names: Sequence[str]) -> Iterator[str]:
    written = structure.offset_write
    if written is None:
        if structure.role == "bios-boot" and not structure.content:
            yield "the role bios-boot needs `offset-write: mbr+92`"
    elif written.relative_to not in {"", "mbr", *names}:
        yield f"offset-write is relative to {written.relative_to!r}, which is no structure"
