"""From a project file to a `Project`: all that is wrong in the file is reported at once, each problem with its line."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from pathlib import Path
from typing import Any

from coreimage.errors import Problem, UsageError, did_you_mean
from coreimage.project.config import Project, ProjectConfig
from coreimage.project.yaml_document import YamlDocument, load_yaml

_RESOLUTION = "mend the lines above; docs/project-file.md describes every key"


def load_project(path: Path) -> Project:
    """Read a project file.

    Raises:
        UsageError: The file cannot be read.
        ConfigError: Something is wrong in it; the error has all of that.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the project file: {error}", resolution="name one with --project FILE") from error
    return Project(config=parse_project(text, str(path)), folder=path.absolute().parent)


def parse_project(text: str, name: str) -> ProjectConfig:
    """Parse the text of a project file, which errors call `name`. Raises ConfigError with all that is wrong in it."""
    document = load_yaml(text, name, resolution=_RESOLUTION)
    return document.validate(ProjectConfig, also=[*_broken_references(document)])


def _broken_references(document: YamlDocument) -> Iterator[Problem]:
    """Find the series, devices, channels and architectures that are named in the file and not defined in it.

    The document is looked at before it is validated, so that these problems are reported together with the others;
    what has not the form that it should have is passed over.
    """
    series, devices, channels = (_mapping(document.value, key) for key in ("series", "devices", "channels"))
    for name in channels:
        channel = _mapping(channels, name)
        own_devices = channel["devices"] if isinstance(channel.get("devices"), list) else []
        architectures = [_mapping(devices, device).get("architecture") for device in own_devices]
        references: list[tuple[tuple[str | int, ...], Any, Collection[Any]]] = [
            (("series",), channel.get("series"), series),
            *((("devices", number), device, devices) for number, device in enumerate(own_devices)),
            (("promotion", "source"), _mapping(channel, "promotion").get("source"), channels),
            *((("architectures", word), word, architectures) for word in _mapping(channel, "architectures")),
        ]
        for place, word, table in references:
            if isinstance(word, str) and table and word not in table:
                near = did_you_mean(word, map(str, table))
                yield document.problem(("channels", name, *place), f"{word!r} is not defined{near}")


def _mapping(value: Any, key: Any) -> dict[Any, Any]:
    """The mapping below a key; an empty one where there is none."""
    below = value.get(key) if isinstance(value, dict) and isinstance(key, Hashable) else None
    return below if isinstance(below, dict) else {}
