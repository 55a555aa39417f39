"""Reading gadget.yaml: from a gadget folder to the values of `structure`, with all problems and their lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from coreimage.disk_image.gadget.rules import broken_rules
from coreimage.disk_image.gadget.structure import Gadget
from coreimage.errors import ConfigError, Problem
from coreimage.project.yaml_document import YamlDocument, load_yaml

_RESOLUTION = "correct the lines above; docs/gadgets.md describes every key"


def load_gadget(folder: Path) -> Gadget:
    """Read `meta/gadget.yaml` of a gadget folder, and check that the files that it names are there.

    Raises:
        ConfigError: Everything that is wrong.
    """
    path = folder / "meta" / "gadget.yaml"
    gadget, document = parse_gadget(read_text(path, resolution=_RESOLUTION), str(path))
    absent = [_problem(document, gadget, place, text) for place, text in _content_problems(gadget, folder)]
    if absent:
        raise document.refused(absent)
    return gadget


def parse_gadget(text: str, name: str) -> tuple[Gadget, YamlDocument]:
    """Parse the text of a gadget.yaml.

    Args:
        text: YAML.
        name: What error messages call it.

    Returns:
        The gadget, and the document that knows its lines.

    Raises:
        ConfigError: Everything that is wrong; each problem names the structure and the rule.
    """
    document = load_yaml(text, name, resolution=_RESOLUTION)
    gadget = document.validate(Gadget)
    broken = [
        _problem(document, gadget, [] if number is None else [number], rule) for number, rule in broken_rules(gadget)
    ]
    if broken:
        raise document.refused(broken)
    return gadget, document


def read_text(path: Path, *, resolution: str) -> str:
    """Read a text file of a gadget.

    Raises:
        ConfigError: It cannot be read. The error says `resolution`.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem("(file)", f"cannot be read: {error}")
        raise ConfigError(str(path), [problem], resolution=resolution) from error


def _problem(document: YamlDocument, gadget: Gadget, place: list[str | int], message: str) -> Problem:
    """Say what is wrong at a place, which begins with the number of a structure."""
    return document.problem(["volumes", next(iter(gadget.volumes)), "structure", *place], message)


def _content_problems(gadget: Gadget, folder: Path) -> Iterator[tuple[list[str | int], str]]:
    for number, structure in enumerate(gadget.structures):
        for item, content in enumerate(structure.content):
            place: list[str | int] = [number, "content", item]
            source = folder / content.path
            if not source.exists():
                yield place, f"{content.path} is not in the gadget folder"
            elif not source.resolve().is_relative_to(folder.resolve()):
                yield place, f"{content.path} leaves the gadget folder"
            elif content.image and not source.is_file():
                yield place, f"the image {content.path} is not a file"
