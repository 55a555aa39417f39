"""Project YAML to `ProjectConfig`. All problems of a file are reported at once, each with its line.

docs/project-file.md describes every key for users.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from coreimage.errors import ConfigError, NotFoundError, Problem, UsageError
from coreimage.model import Architecture, Firmware, Value


def _channel_name(name: str) -> str:
    """Channel names become paths and INI values (system-image §1.1, §2.6)."""
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or parts[0] in {"pool", "gpg"} or "%" in name or " " in name:
        raise ValueError("a channel name is `/`-separated words; the first is not `pool` or `gpg`; no `%`, no blanks")
    return name


ChannelName = Annotated[str, AfterValidator(_channel_name)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]


class ArchiveConfig(Value):
    """A package archive. Without `uri`, the host's own apt sources for the first suite are used."""

    uri: str | None = None
    suites: tuple[Word, ...] = Field(min_length=1)
    components: tuple[Word, ...] = ("main",)
    key: str | None = None
    """Keyring file (binary or armoured), relative to the project file; default: the distribution's own."""


class ExtraArchiveConfig(Value):
    """2015's EXTRA_PPAS: one more archive with its own key and, when wanted, a pin."""

    uri: str
    suite: Word
    components: tuple[Word, ...] = ("main",)
    key: str
    pin_priority: int | None = Field(default=None, ge=-1, le=2000)
    may_replace: tuple[str, ...] = ()
    """Packages of `archives` that this one may take the place of; `*`: any."""


class RootfsConfig(Value):
    packages: tuple[str, ...] = Field(min_length=1)
    overlay: str | None = None
    """Folder whose files are laid over the rootfs after the packages are installed."""
    hooks: tuple[str, ...] = ()
    """Scripts run in the rootfs, in this order, after the overlay."""


class SeriesConfig(Value):
    distribution: Literal["debian", "ubuntu"] = "debian"
    codename: Word
    product: Word = "core"
    archives: tuple[ArchiveConfig, ...] = Field(min_length=1)
    extra_archives: tuple[ExtraArchiveConfig, ...] = ()
    rootfs: RootfsConfig


class DeviceConfig(Value):
    architecture: Architecture
    gadget: str
    """Folder with meta/gadget.yaml and the boot assets it names, relative to the project file."""
    packages: tuple[str, ...] = Field(min_length=1)
    """Kernel and firmware packages; they end up in the device tarball."""


class ChannelConfig(Value):
    series: str
    devices: tuple[Word, ...] = Field(min_length=1)
    image_type: Word = "daily-preinstalled"
    description: str = ""
    boot_test: tuple[Firmware, ...] = ("bios", "uefi")
    """Firmwares under which a candidate must boot before it is released; empty: no gate."""
    compression: Literal["fast", "small"] = "fast"


class ProjectConfig(Value):
    project: Word
    series: dict[Word, SeriesConfig] = Field(min_length=1)
    devices: dict[Word, DeviceConfig] = Field(min_length=1)
    channels: dict[ChannelName, ChannelConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _references_exist(self) -> ProjectConfig:
        problems = [
            _Reference(("channels", name, key), wanted, table)
            for name, channel in self.channels.items()
            for key, wanted, table in _references(channel, list(self.series), list(self.devices))
            if wanted not in table
        ]
        if problems:
            raise _BadReferences(problems)
        return self


def _references(channel: ChannelConfig, series: list[str], devices: list[str]) -> list[tuple[str, str, list[str]]]:
    return [("series", channel.series, series), *(("devices", device, devices) for device in channel.devices)]


class _Reference:
    def __init__(self, path: tuple[str, ...], wanted: str, table: list[str]) -> None:
        self.path, self.message = path, f"{wanted!r} is not defined{did_you_mean(wanted, table)}"


class _BadReferences(Exception):  # noqa: N818
    def __init__(self, references: list[_Reference]) -> None:
        super().__init__()
        self.references = references


class Project(Value):
    """A loaded project: what its file says, and the folder that its relative paths start from."""

    config: ProjectConfig
    folder: Path

    def channel(self, name: str) -> ChannelConfig:
        """Raises NotFoundError, naming the near miss."""
        found = self.config.channels.get(name)
        if found is None:
            known = ", ".join(self.config.channels)
            raise NotFoundError(
                f"channel {name!r} is not in project {self.config.project}{did_you_mean(name, self.config.channels)}",
                resolution=f"known channels: {known}",
            )
        return found

    def path(self, relative: str) -> Path:
        return self.folder / relative


def load_project(path: Path) -> Project:
    """Reads a project file. Raises UsageError when it cannot be read, ConfigError with all that is wrong in it."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the project file: {error}", resolution="name one with --project FILE") from error
    return Project(config=parse_project(text, str(path)), folder=path.absolute().parent)


def parse_project(text: str, name: str) -> ProjectConfig:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(name, [Problem("yaml", error.problem or "not YAML", line)]) from error
    except yaml.YAMLError as error:
        raise ConfigError(name, [Problem("yaml", str(error))]) from error
    try:
        return ProjectConfig.model_validate(data, strict=False)
    except ValidationError as error:
        raise ConfigError(name, [_problem(detail, root) for detail in error.errors()]) from error
    except _BadReferences as error:
        problems = [Problem(".".join(r.path), r.message, _line(root, r.path)) for r in error.references]
        raise ConfigError(name, problems) from None


def did_you_mean(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _problem(detail: Any, root: yaml.Node | None) -> Problem:
    path = tuple(str(part) for part in detail["loc"] if part != "[key]")
    message = str(detail["msg"])
    if detail["type"] == "extra_forbidden":
        message = f"unknown key{did_you_mean(path[-1], _keys_at(path[:-1]))}"
    elif detail["type"] != "missing":
        message = f"{message} (found {detail['input']!r})"
    return Problem(".".join(path) or "(top)", message, _line(root, path))


def _line(node: yaml.Node | None, path: tuple[str, ...]) -> int:
    """The line of the innermost part of `path` that the document has."""
    line = node.start_mark.line + 1 if node else 0
    for part in path:
        found = _child(node, part)
        if found is None:
            break
        line, node = found
    return line


def _child(node: yaml.Node | None, part: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item.start_mark.line + 1, item
    return None


_TABLES: dict[str, type[BaseModel]] = {"series": SeriesConfig, "devices": DeviceConfig, "channels": ChannelConfig}
_PARTS: dict[str, type[BaseModel]] = {
    "archives": ArchiveConfig,
    "extra_archives": ExtraArchiveConfig,
    "rootfs": RootfsConfig,
}


def _keys_at(path: tuple[str, ...]) -> list[str]:
    """The keys that the schema knows at this place."""
    if not path:
        return list(ProjectConfig.model_fields)
    named = [_PARTS[part] for part in path if part in _PARTS]
    model = named[-1] if named else _TABLES.get(path[0])
    return list(model.model_fields) if model else []
