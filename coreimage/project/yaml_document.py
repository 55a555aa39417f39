"""YAML with the lines that its parts stand on: the one loader of every YAML file that people write.

What a document must hold is said by a pydantic model; nothing here knows one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from coreimage.errors import ConfigError, Problem, did_you_mean

Model = TypeVar("Model", bound=BaseModel)
Path = Sequence[str | int]
"""The keys and the numbers of list items that lead from the top of a document to one of its parts."""

TOP = "(top)"


@dataclass(frozen=True)
class YamlDocument:
    """A parsed document, or a part of one: `value` is what it says.

    `name` is what errors call the file, and `resolution` what they say to do about it.
    """

    name: str
    resolution: str
    value: Any
    node: yaml.Node | None

    def part(self, key: str) -> YamlDocument:
        """Return what stands below a key of the document, which must be there."""
        child = _child(self.node, key)
        return replace(self, value=self.value[key], node=child[1] if child else None)

    def problem(self, path: Path, message: str) -> Problem:
        """Say that something is wrong at `path`, with its line; an item of a list is called by its `name`, if any."""
        line, node, value = self.node.start_mark.line + 1 if self.node else 0, self.node, self.value
        words = []
        for part in path:
            line, node = _child(node, part) or (line, None)
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                value = None
            named = isinstance(part, int) and isinstance(value, dict) and value.get("name")
            words.append(str(named or part))
        return Problem(".".join(words) or TOP, message, line)

    def validate(
        self,
        model: type[Model],
        *,
        also: Sequence[Problem] = (),
        unknown_key: str = "unknown key",
        secret: bool = False,
    ) -> Model:
        """Return the document as an instance of `model`.

        Args:
            model: What the document must be.
            also: Problems that were found in the document before, to be reported with the others.
            unknown_key: What is said of a key that `model` does not have; the nearest key is added.
            secret: Whether errors must not show what the document says, since it may hold passwords.

        Raises:
            ConfigError: With `also` and everything in which the document differs from `model`.
        """
        problems = list(also)
        try:
            valid = model.model_validate(self.value)
        except ValidationError as error:
            problems += [self._explained(detail, model, unknown_key, secret=secret) for detail in error.errors()]
        if problems:
            raise self.refused(problems)
        return valid

    def refused(self, problems: Sequence[Problem]) -> ConfigError:
        """Return the error that says what is wrong in the document."""
        return ConfigError(self.name, problems, resolution=self.resolution)

    def _explained(self, detail: ErrorDetails, model: type[BaseModel], unknown_key: str, *, secret: bool) -> Problem:
        path = [part for part in detail["loc"] if part != "[key]"]
        match detail["type"]:
            case "extra_forbidden":
                message = f"{unknown_key}{did_you_mean(str(path[-1]), known_keys(model, path[:-1]))}"
            case "model_type" | "dict_type":
                message = "is not a mapping of keys to values"
            case "missing":
                message = "is missing"
            case "value_error":
                message = detail["msg"].removeprefix("Value error, ")
            case _:
                message = detail["msg"]
        shown = secret or detail["type"] in {"extra_forbidden", "missing"} or isinstance(detail["input"], dict)
        return self.problem(path, message if shown else f"{message} (found {detail['input']!r})")


def load_yaml(text: str, name: str, *, resolution: str) -> YamlDocument:
    """Parse a YAML document of plain values (strings, numbers, lists, mappings).

    Args:
        text: The one document.
        name: What errors call it, usually its path.
        resolution: What to do about a document that is refused.

    Raises:
        ConfigError: `text` is not YAML, or a mapping has a key twice, of which YAML's own rule would drop the first.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = YamlDocument(name, resolution, loader.construct_document(node) if node else None, node)
        repeated = _repeated_keys(node)
        problems = [replace(document.problem(path, message), line=line) for path, line, message in repeated]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        problems = [Problem("yaml", error.problem or "is not YAML", line)]
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems = [Problem("yaml", f"{error.reason} ({error.character!r})", line)]
    except RecursionError:
        problems = [Problem("yaml", "is nested too deeply")]
    if problems:
        raise ConfigError(name, problems, resolution=resolution)
    return document


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Name the line of a scalar that has the form of a date or a number and is none, such as 2026-02-30."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConstructorError(None, None, f"{node.value!r}: {error}", node.start_mark) from error


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """Return the keys that `model` allows at `path`: the fields of the model there, under the names that files use."""
    annotation: Any = model
    for part in path:
        if _is_model(annotation):
            fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
            annotation = _bare(fields.get(str(part)))
        else:
            arguments = get_args(annotation)
            annotation = _bare(arguments[1 if get_origin(annotation) is dict else 0]) if arguments else None
    return [field.alias or name for name, field in annotation.model_fields.items()] if _is_model(annotation) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _bare(annotation: Any) -> Any:
    """`X` of `Annotated[X, …]` and of `X | None`."""
    while get_origin(annotation) in {Annotated, Union, UnionType}:
        annotation = next(argument for argument in get_args(annotation) if argument is not type(None))
    return annotation


def _repeated_keys(root: yaml.Node | None) -> Iterator[tuple[Path, int, str]]:
    """Give the place, the line and the fault of every key that its mapping had before.

    A node that several aliases name is looked at once, where it is defined.
    """
    waiting: deque[tuple[tuple[str | int, ...], yaml.Node | None]] = deque([((), root)])
    seen: set[int] = set()
    while waiting:
        path, node = waiting.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(((*path, number), item) for number, item in enumerate(node.value))
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                word, line = str(key.value), key.start_mark.line + 1
                if word in lines:
                    yield (*path, word), line, f"stands twice, first in line {lines[word]}"
                lines.setdefault(word, line)
                waiting.append(((*path, word), value))


def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    """The line and the node of a part."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line + 1, item
    return None
