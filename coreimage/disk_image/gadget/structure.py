"""The values of a gadget: its volume, the structures of the disk, and what goes on them.

The format is snapd's gadget.yaml, as far as a single volume of a board or a PC needs it, with `bios-boot`, `system-a`
and `system-b` as roles of our own. What snapd has for its own systems (`defaults`, `connections`, …) is refused as
unknown. Rules between structures are in `rules`; docs/gadgets.md describes every key.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from coreimage.model import Value

Role = Literal["mbr", "bios-boot", "system-boot", "system-a", "system-b", "system-data"]
Schema = Literal["gpt", "mbr"]
Bootloader = Literal["grub", "u-boot"]

SECTOR_BYTES = 512
BOOT_CODE_BYTES = 440
"""The room for code in sector 0: the disk's number and the table come after it (snapd grants 446, which hits both)."""

_IMPLIED_ROLES: dict[str, Role] = {
    "system-boot": "system-boot",
    "system-a": "system-a",
    "system-b": "system-b",
    "writable": "system-data",
}
"""By filesystem label."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_GUID = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_TYPE = re.compile(rf"bare|mbr|[0-9A-Fa-f]{{2}}|{_GUID}|[0-9A-Fa-f]{{2}},{_GUID}")


def _size_bytes(text: Any) -> int:
    """Parse `4096`, `4M` or `1G`. The units are binary, as in snapd (pydantic's ByteSize takes them as decimal)."""
    match = re.fullmatch(r"(\d+)([KMG]?)", str(text))
    if not match:
        raise ValueError("a size is a whole number, with K, M or G (binary) behind it if wanted")
    return int(match[1]) * _UNITS[match[2]]


def _inner_path(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError("a path stays inside its folder: relative, without `..`")
    return path


def _type(text: Any) -> str:
    if not _TYPE.fullmatch(str(text)):
        raise ValueError("a type is `bare`, `mbr`, two hex digits, a GUID, or the two with a comma between them")
    return str(text)


def _target(path: str) -> str:
    """Accept a path from the filesystem's root, with a slash before it or without, as snapd does."""
    return _inner_path(path.lstrip("/") or ".")


def _offset_write(text: Any) -> Any:
    if text is None or isinstance(text, dict):
        return text
    match = re.fullmatch(r"(?:(.+)\+)?(\d+[KMG]?)", str(text))
    if not match:
        raise ValueError("an offset-write is `OFFSET` or `NAME+OFFSET`, such as `mbr+92`")
    return {"relative_to": match[1] or "", "offset_bytes": _size_bytes(match[2])}


SizeBytes = Annotated[int, BeforeValidator(_size_bytes)]
InnerPath = Annotated[str, AfterValidator(_inner_path)]
Target = Annotated[str, AfterValidator(_target)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,35}$")]


class Content(Value):
    """A file or folder of the gadget and where it goes on a filesystem, or raw bytes and where in the structure."""

    source: InnerPath | None = None
    target: Target | None = None
    image: InnerPath | None = None
    offset_bytes: SizeBytes | None = Field(default=None, alias="offset")
    size_bytes: SizeBytes | None = Field(default=None, alias="size")

    @model_validator(mode="after")
    def _one_kind(self) -> Content:
        is_file = self.source is not None and self.target is not None
        is_placed = self.offset_bytes is not None or self.size_bytes is not None
        if is_file == (self.image is not None) or (is_file and is_placed):
            raise ValueError("content is either `source` and `target`, or `image` with `offset` and `size` if wanted")
        return self

    @property
    def path(self) -> str:
        """The path in the gadget."""
        return self.source or self.image or ""


class OffsetWrite(Value):
    """Where a structure's first sector is written, as a little-endian number of 32 bits.

    The place is `offset_bytes` behind the start of the structure `relative_to`, or of the disk where that is empty.
    """

    relative_to: str = ""
    offset_bytes: int


class Update(Value):
    """What snapd's updater of gadgets goes by. It is accepted, and changes nothing in an image."""

    edition: int = Field(default=0, ge=0)
    preserve: tuple[str, ...] = ()


class Structure(Value):
    """A part of the disk: a partition, a place between partitions (type `bare`), or the boot record."""

    name: Name
    role: Role | None = None
    type: Annotated[str, BeforeValidator(_type)]
    id: str | None = Field(default=None, pattern=rf"^{_GUID}$")
    filesystem: Literal["none", "vfat", "ext4"] | None = None
    filesystem_label: str = Field(default="", alias="filesystem-label", pattern=r"^[A-Za-z0-9_-]{0,16}$")
    offset_bytes: SizeBytes | None = Field(default=None, alias="offset")
    size_bytes: SizeBytes | None = Field(default=None, alias="size")
    min_size_bytes: SizeBytes = Field(default=0, alias="min-size")
    offset_write: Annotated[OffsetWrite | None, BeforeValidator(_offset_write)] = Field(
        default=None, alias="offset-write"
    )
    content: tuple[Content, ...] = ()
    update: Update | None = None

    @model_validator(mode="before")
    @classmethod
    def _implied_role(cls, values: Any) -> Any:
        """Give a structure the role that its label implies, as snapd does."""
        if not isinstance(values, dict) or values.get("role"):
            return values
        implied = _IMPLIED_ROLES.get(str(values.get("filesystem-label", "")))
        return {**values, "role": implied} if implied else values

    @property
    def is_boot_record(self) -> bool:
        return self.type == "mbr" or self.role == "mbr"

    @property
    def is_partition(self) -> bool:
        """Whether it is in the partition table."""
        return self.type != "bare" and not self.is_boot_record

    @property
    def type_byte(self) -> str | None:
        """Its type in a DOS partition table: two hex digits."""
        first = self.type.partition(",")[0]
        return first if re.fullmatch("[0-9A-Fa-f]{2}", first) else None

    @property
    def type_guid(self) -> str | None:
        """Its type in a GUID partition table."""
        last = self.type.rpartition(",")[2]
        return last if re.fullmatch(_GUID, last) else None


class Volume(Value):
    """A disk: its partition table, its boot loader, and its structures in the order of the disk."""

    schema_: Schema = Field(default="gpt", alias="schema")
    bootloader: Bootloader
    id: str | None = Field(default=None, pattern=rf"^({_GUID}|0x[0-9A-Fa-f]{{1,8}}|[0-9A-Fa-f]{{2}})$")
    structure: tuple[Structure, ...] = Field(min_length=1)


class Gadget(Value):
    """What a disk is made of: exactly one volume."""

    volumes: dict[str, Volume] = Field(min_length=1, max_length=1)

    @property
    def volume(self) -> Volume:
        return next(iter(self.volumes.values()))

    @property
    def structures(self) -> tuple[Structure, ...]:
        """Its structures in the order of the disk."""
        return self.volume.structure

    def by_role(self, role: Role) -> Structure | None:
        return next((structure for structure in self.structures if structure.role == role), None)
