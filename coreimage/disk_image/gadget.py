"""The gadget: which structures a disk has and what goes on them, in the format of snapd's gadget.yaml.

Read is what a single volume of a board or a PC needs, and `bios-boot`, `system-a` and `system-b` as roles of our own.
What snapd has for the snaps of its own systems (`defaults`, `connections`, `volume-assignments`, …) is refused as
unknown. docs/gadgets.md describes every key for users.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from coreimage.config import did_you_mean
from coreimage.disk_image.gadget_rules import broken_rules
from coreimage.errors import ConfigError, Problem
from coreimage.model import Value

Role = Literal["mbr", "bios-boot", "system-boot", "system-a", "system-b", "system-data"]
Schema = Literal["gpt", "mbr"]
Bootloader = Literal["grub", "u-boot"]
IMPLIED_ROLES: dict[str, Role] = {
    "system-boot": "system-boot",
    "system-a": "system-a",
    "system-b": "system-b",
    "writable": "system-data",
}
"""By file system label."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_GUID = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_TYPE = re.compile(rf"bare|mbr|[0-9A-Fa-f]{{2}}|{_GUID}|[0-9A-Fa-f]{{2}},{_GUID}")
_RESOLUTION = "mend the lines above; docs/gadgets.md describes every key"


def _size(text: Any) -> int:
    """Bytes of `4096`, `4M` or `1G` (binary units, as in snapd)."""
    found = re.fullmatch(r"(\d+)([KMG]?)", str(text))
    if not found:
        raise ValueError("a size is a whole number, with K, M or G (binary) behind it if wanted")
    return int(found[1]) * _UNITS[found[2]]


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError("a path stays inside its folder: relative, without `..`")
    return path


def _type(text: Any) -> str:
    if not _TYPE.fullmatch(str(text)):
        raise ValueError("a type is `bare`, `mbr`, two hex digits, a GUID, or the two with a comma between them")
    return str(text)


def _target(path: str) -> str:
    """snapd's targets start from the file system's root, with or without a slash."""
    return _inside(path.lstrip("/") or ".")


SizeBytes = Annotated[int, BeforeValidator(_size)]
InnerPath = Annotated[str, AfterValidator(_inside)]
Target = Annotated[str, AfterValidator(_target)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,35}$")]


class Content(Value):
    """A file or folder of the gadget and where it goes on a filesystem, or raw bytes and where in the structure."""

    source: InnerPath | None = None
    target: Target | None = None
    image: InnerPath | None = None
    offset: SizeBytes | None = None
    size: SizeBytes | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Content:
        is_file = self.source is not None and self.target is not None
        if is_file == (self.image is not None) or (is_file and (self.offset is not None or self.size is not None)):
            raise ValueError("content is either `source` and `target`, or `image` with `offset` and `size` if wanted")
        return self

    @property
    def path(self) -> str:
        """In the gadget."""
        return self.source or self.image or ""


class OffsetWrite(Value):
    """Where a structure's first sector is to be written, as a little-endian 32-bit number of it (snapd)."""

    relative_to: str = ""
    offset_bytes: int


def _offset_write(text: Any) -> Any:
    if text is None or isinstance(text, dict):
        return text
    found = re.fullmatch(r"(?:(.+)\+)?(\d+[KMG]?)", str(text))
    if not found:
        raise ValueError("an offset-write is `OFFSET` or `NAME+OFFSET`, such as `mbr+92`")
    return {"relative_to": found[1] or "", "offset_bytes": _size(found[2])}


class Update(Value):
    """Read and kept: it speaks to an updater of gadgets, not to whoever makes a disk."""

    edition: int = Field(default=0, ge=0)
    preserve: tuple[str, ...] = ()


class Structure(Value):
    name: Name
    role: Role | None = None
    type: Annotated[str, BeforeValidator(_type)]
    id: str | None = Field(default=None, pattern=rf"^{_GUID}$")
    filesystem: Literal["none", "vfat", "ext4"] | None = None
    filesystem_label: str = Field(default="", alias="filesystem-label", pattern=r"^[A-Za-z0-9_-]{0,16}$")
    offset: SizeBytes | None = None
    size: SizeBytes | None = None
    min_size: SizeBytes = Field(default=0, alias="min-size")
    offset_write: Annotated[OffsetWrite | None, BeforeValidator(_offset_write)] = Field(
        default=None, alias="offset-write"
    )
    content: tuple[Content, ...] = ()
    update: Update | None = None

    @model_validator(mode="before")
    @classmethod
    def _implied_role(cls, values: Any) -> Any:
        """As in snapd, a well-known label implies the role."""
        if not isinstance(values, dict) or values.get("role"):
            return values
        implied = IMPLIED_ROLES.get(str(values.get("filesystem-label", "")))
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
        """Of a DOS partition table: two hex digits."""
        first = self.type.partition(",")[0]
        return first if re.fullmatch("[0-9A-Fa-f]{2}", first) else None

    @property
    def type_guid(self) -> str | None:
        last = self.type.rpartition(",")[2]
        return last if re.fullmatch(_GUID, last) else None


class Volume(Value):
    schema_: Schema = Field(default="gpt", alias="schema")
    bootloader: Bootloader
    id: str | None = Field(default=None, pattern=rf"^({_GUID}|0x[0-9A-Fa-f]{{1,8}}|[0-9A-Fa-f]{{2}})$")
    structure: tuple[Structure, ...] = Field(min_length=1)


class Gadget(Value):
    """One volume; `structure` is in the order of the disk."""

    volumes: dict[str, Volume] = Field(min_length=1, max_length=1)

    @property
    def volume(self) -> Volume:
        return next(iter(self.volumes.values()))

    @property
    def structures(self) -> tuple[Structure, ...]:
        return self.volume.structure

    def by_role(self, role: Role) -> Structure | None:
        return next((structure for structure in self.structures if structure.role == role), None)


def load_gadget(folder: Path) -> Gadget:
    """Reads `meta/gadget.yaml` of a gadget folder. Raises ConfigError with everything that is wrong in it."""
    path = folder / "meta" / "gadget.yaml"
    try:
        gadget = parse_gadget(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(str(path), [Problem("(file)", f"cannot be read: {error}")]) from error
    problems = [problem for structure in gadget.structures for problem in _content_problems(structure, folder)]
    if problems:
        raise _refused(str(path), problems)
    return gadget


def parse_gadget(text: str, name: str) -> Gadget:
    """Raises ConfigError; each problem names the structure and the rule."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _refused(name, [Problem("yaml", str(error), mark.line + 1 if mark else 0)]) from error
    try:
        gadget = Gadget.model_validate(document)
    except ValidationError as error:
        raise _refused(name, [_problem(detail, document) for detail in error.errors()]) from error
    problems = broken_rules(gadget.volume.schema_, gadget.structures)
    if problems:
        raise _refused(name, problems)
    return gadget


def _refused(path: str, problems: list[Problem]) -> ConfigError:
    return ConfigError(path, problems, resolution=_RESOLUTION)


def _problem(detail: Any, document: Any) -> Problem:
    path = [part for part in detail["loc"] if part != "[key]"]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = f"unknown key{did_you_mean(str(path[-1]), _known_keys(path))}"
    return Problem(_place(path, document), message)


def _known_keys(path: list[Any]) -> list[str]:
    depth = sum(isinstance(part, int) for part in path)
    models: list[type[Value]] = [Gadget if len(path) == 1 else Volume, Structure, Content]
    return [field.alias or key for key, field in models[depth].model_fields.items()]


def _place(path: list[Any], document: Any) -> str:
    """The dotted place, with structures called by their name."""
    words, node = [], document
    for part in path:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
        named = isinstance(part, int) and isinstance(node, dict) and node.get("name")
        words.append(str(named or part))
    return ".".join(words) or "(top)"


def _content_problems(structure: Structure, folder: Path) -> list[Problem]:
    problems = []
    for content in structure.content:
        source = folder / content.path
        if not source.exists():
            problems.append(Problem(structure.name, f"content {content.path} is not in the gadget folder"))
        elif not source.resolve().is_relative_to(folder.resolve()):
            problems.append(Problem(structure.name, f"content {content.path} leaves the gadget folder"))
        elif content.image and not source.is_file():
            problems.append(Problem(structure.name, f"the image {content.path} is not a file"))
    return problems
