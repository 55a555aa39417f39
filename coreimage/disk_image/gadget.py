"""The gadget: which structures a disk has and what goes on them, in the format of snapd's gadget.yaml.

Read is what a PC-like volume needs; `update`, `volume-assignments` and other keys for snaps are refused as unknown.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from coreimage.config import did_you_mean
from coreimage.errors import ConfigError, Problem
from coreimage.model import Value

Role = Literal["bios-boot", "system-boot", "system-a", "system-b", "system-data"]
REQUIRED_ROLES: tuple[Role, ...] = ("system-boot", "system-a", "system-b", "system-data")
_FILESYSTEMS = {
    "bios-boot": None,
    "system-boot": "vfat",
    "system-a": "ext4",
    "system-b": "ext4",
    "system-data": "ext4",
}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SECTOR_BYTES = 512


def _size(text: Any) -> int:
    """Bytes of `4096`, `4M` or `1G` (binary units, as in snapd)."""
    found = re.fullmatch(r"(\d+)([KMG]?)", str(text))
    if not found:
        raise ValueError("a size is a whole number, with K, M or G (binary) behind it if wanted")
    size_bytes = int(found[1]) * _UNITS[found[2]]
    if size_bytes % _SECTOR_BYTES:
        raise ValueError("a size or offset is a multiple of 512 bytes")
    return size_bytes


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError("a path stays inside its folder: relative, without `..`")
    return path


SizeBytes = Annotated[int, BeforeValidator(_size)]
InnerPath = Annotated[str, AfterValidator(_inside)]


class Content(Value):
    """A file or folder of the gadget, and where it goes on the filesystem of its structure."""

    source: InnerPath
    target: InnerPath


class Structure(Value):
    name: str = Field(pattern=r"^[a-z0-9-]{1,36}$")
    role: Role
    type: str = Field(pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")
    filesystem: Literal["vfat", "ext4"] | None = None
    filesystem_label: str = Field(default="", alias="filesystem-label", pattern=r"^[A-Za-z0-9_-]{0,16}$")
    offset: SizeBytes | None = None
    size: SizeBytes | None = None
    min_size: SizeBytes = Field(default=0, alias="min-size")
    offset_write: Literal["mbr+92"] | None = Field(default=None, alias="offset-write")
    content: tuple[Content, ...] = ()


class Volume(Value):
    schema_: Literal["gpt"] = Field(default="gpt", alias="schema")
    bootloader: Literal["grub"]
    structure: tuple[Structure, ...] = Field(min_length=1)


class Gadget(Value):
    """One volume; `structure` is in the order of the disk."""

    volumes: dict[str, Volume] = Field(min_length=1, max_length=1)

    @property
    def structures(self) -> tuple[Structure, ...]:
        return next(iter(self.volumes.values())).structure

    def by_role(self, role: Role) -> Structure | None:
        return next((structure for structure in self.structures if structure.role == role), None)


def load_gadget(folder: Path) -> Gadget:
    """Reads `meta/gadget.yaml` of a gadget folder. Raises ConfigError with everything that is wrong in it."""
    path = folder / "meta" / "gadget.yaml"
    try:
        gadget = parse_gadget(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Problem("(file)", f"cannot be read: {error}")]) from error
    problems = [problem for structure in gadget.structures for problem in _content_problems(structure, folder)]
    if problems:
        raise ConfigError(str(path), problems)
    return gadget


def parse_gadget(text: str, name: str) -> Gadget:
    """Raises ConfigError; each problem names the structure and the rule."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(name, [Problem("yaml", str(error), mark.line + 1 if mark else 0)]) from error
    try:
        gadget = Gadget.model_validate(document)
    except ValidationError as error:
        raise ConfigError(name, [_problem(detail, document) for detail in error.errors()]) from error
    problems = _rules(gadget)
    if problems:
        raise ConfigError(name, problems)
    return gadget


def _problem(detail: Any, document: Any) -> Problem:
    path = [part for part in detail["loc"] if part != "[key]"]
    message = str(detail["msg"])
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


def _rules(gadget: Gadget) -> list[Problem]:
    structures = gadget.structures
    roles = [structure.role for structure in structures]
    names = [structure.name for structure in structures]
    missing = [role for role in REQUIRED_ROLES if role not in roles]
    return [
        *(Problem("structure", f"no structure has the role {role}") for role in missing),
        *(
            Problem(s.name, f"the role {s.role} is there twice")
            for n, s in enumerate(structures)
            if s.role in roles[:n]
        ),
        *(Problem(s.name, "the name is there twice") for n, s in enumerate(structures) if s.name in names[:n]),
        *(problem for structure in structures for problem in _structure_problems(structure)),
        *(Problem(s.name, "only the last structure may have no size") for s in structures[:-1] if s.size is None),
    ]


def _structure_problems(structure: Structure) -> list[Problem]:
    problems = []
    if structure.filesystem != (wanted := _FILESYSTEMS[structure.role]):
        problems.append(f"the role {structure.role} needs `filesystem: {wanted}`" if wanted else "takes no filesystem")
    if structure.filesystem and not structure.filesystem_label:
        problems.append("a filesystem needs `filesystem-label`")
    if structure.content and structure.role != "system-boot":
        problems.append("content can only go on the structure with the role system-boot")
    if structure.role == "bios-boot" and not structure.offset_write:
        problems.append("the role bios-boot needs `offset-write: mbr+92`")
    return [Problem(structure.name, problem) for problem in problems]


def _content_problems(structure: Structure, folder: Path) -> list[Problem]:
    problems = []
    for content in structure.content:
        source = folder / content.source
        if not source.exists():
            problems.append(Problem(structure.name, f"content {content.source} is not in the gadget folder"))
        elif not source.resolve().is_relative_to(folder.resolve()):
            problems.append(Problem(structure.name, f"content {content.source} leaves the gadget folder"))
    return problems
