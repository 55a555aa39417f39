"""Draws `docs/architecture.svg` from the imports of the code: one box per room, floors as import-linter checks them.

`python -m tests.harness.house` writes the picture anew; a unit test compares it with the code. Every room may use the
shared parts, so arrows from the upper rooms to those are left out: they would hide the others.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from xml.sax.saxutils import escape

import grimp

REPOSITORY = Path(__file__).parents[2]
PICTURE = REPOSITORY / "docs" / "architecture.svg"
PACKAGES = ("coreimage", "tasks", "flows", "deployments")
FIRST_SHARED = "coreimage.project"
"""The uppermost floor of the parts that every room may use."""

_WIDTH, _MARGIN, _GAP = 1240, 20, 24
_ROOM_HEIGHT, _FLOOR_HEIGHT = 66, 116
_TEXT_COLUMNS_PER_PIXEL = 1 / 6.0
_STYLE = """
  text { font-family: Helvetica, Arial, sans-serif; fill: #1f2933; }
  .name { font-size: 14px; font-weight: bold; }
  .about { font-size: 11px; fill: #52606d; }
  .room { fill: #f5f7fa; stroke: #9aa5b1; }
  .shared { fill: #eef7f0; stroke: #94b8a0; }
  .import { fill: none; stroke: #3e7cb1; stroke-opacity: 0.45; stroke-width: 1.3; }
"""


@dataclass(frozen=True)
class House:
    """The rooms, floor by floor from the top, and which room needs which: only arrows that no longer way implies.

    `shared` are the parts that every room may use.
    """

    floors: tuple[tuple[str, ...], ...]
    arrows: tuple[tuple[str, str], ...]
    shared: frozenset[str]


def read_house() -> House:
    """Read the floors from the layers that import-linter checks, and the arrows from the import statements.

    Raises:
        ValueError: A module lies in no room, or imports run in a circle.
    """
    layers = _layers(REPOSITORY / "pyproject.toml")
    rooms = [room for floor in layers for room in floor]
    graph = grimp.build_graph(*PACKAGES)
    room_of = {module: _room_of(module, rooms) for module in graph.modules}
    needed: dict[str, set[str]] = {room: set() for room in rooms}
    for module, room in room_of.items():
        needed[room] |= {room_of[other] for other in graph.find_modules_directly_imported_by(module)} - {room}
    first = next(number for number, floor in enumerate(layers) if FIRST_SHARED in floor)
    shared = frozenset(room for floor in layers[first:] for room in floor)
    arrows = [(upper, lower) for upper, lower in _without_shortcuts(needed) if upper in shared or lower not in shared]
    return House(layers, tuple(sorted(arrows)), shared)


def draw_house(house: House) -> str:
    """Return the SVG document of a house. The same house always gives the same bytes."""
    boxes = dict(_boxes(house.floors))
    height = _MARGIN * 2 + _FLOOR_HEIGHT * len(house.floors) - (_FLOOR_HEIGHT - _ROOM_HEIGHT)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        "<title>Rooms of coreimage: each imports only from floors below</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        *(_arrow(boxes[upper], boxes[lower]) for upper, lower in house.arrows),
        *(line for name, box in boxes.items() for line in _room(name, box, shared=name in house.shared)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Box:
    x: int
    y: int
    width: int


def _layers(pyproject: Path) -> tuple[tuple[str, ...], ...]:
    contracts = tomllib.loads(pyproject.read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return tuple(tuple(sorted(layer.replace(" ", "").split("|"))) for layer in layers)


def _room_of(module: str, rooms: Sequence[str]) -> str:
    for room in rooms:
        if module == room or module.startswith(f"{room}."):
            return room
    if module == "coreimage":
        return rooms[-1]
    raise ValueError(f"{module} lies in no room: add a layer for it to pyproject.toml")


def _without_shortcuts(needed: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """The transitive reduction: an arrow goes where another way leads to the same room."""
    below: dict[str, set[str]] = {}

    def reach(room: str, above: tuple[str, ...]) -> set[str]:
        if room in above:
            raise ValueError(f"imports run in a circle: {' -> '.join((*above, room))}")
        if room not in below:
            below[room] = needed[room].union(*(reach(other, (*above, room)) for other in sorted(needed[room])))
        return below[room]

    for room in needed:
        reach(room, ())
        for other in needed[room]:
            if not any(other in below[between] for between in needed[room] - {other}):
                yield room, other


def _boxes(floors: Sequence[Sequence[str]]) -> Iterator[tuple[str, _Box]]:
    for number, floor in enumerate(floors):
        width = min(420, (_WIDTH - 2 * _MARGIN - _GAP * (len(floor) - 1)) // len(floor))
        left = (_WIDTH - width * len(floor) - _GAP * (len(floor) - 1)) // 2
        for place, room in enumerate(floor):
            yield room, _Box(left + place * (width + _GAP), _MARGIN + number * _FLOOR_HEIGHT, width)


def _room(name: str, box: _Box, *, shared: bool) -> Iterator[str]:
    middle = box.x + box.width // 2
    kind = "shared" if shared else "room"
    yield f'<rect class="{kind}" x="{box.x}" y="{box.y}" width="{box.width}" height="{_ROOM_HEIGHT}" rx="6"/>'
    label = name.removeprefix("coreimage.").replace(".", "/")
    yield f'<text class="name" x="{middle}" y="{box.y + 20}" text-anchor="middle">{escape(label)}</text>'
    columns = int(box.width * _TEXT_COLUMNS_PER_PIXEL)
    for number, line in enumerate(wrap(_about(name), columns, max_lines=2, placeholder=" …")):
        y = box.y + 38 + 14 * number
        yield f'<text class="about" x="{middle}" y="{y}" text-anchor="middle">{escape(line)}</text>'


def _about(name: str) -> str:
    """The first sentence of a room's docstring."""
    path = REPOSITORY / name.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
    return docstring.partition("\n\n")[0].replace("\n", " ").partition(". ")[0].rstrip(".")


def _arrow(upper: _Box, lower: _Box) -> str:
    x1, y1 = upper.x + upper.width // 2, upper.y + _ROOM_HEIGHT
    x2, y2 = lower.x + lower.width // 2, lower.y
    bend = (y2 - y1) // 2
    return f'<path class="import" d="M{x1},{y1} C{x1},{y1 + bend} {x2},{y2 - bend} {x2},{y2}"/>'


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw_house(read_house()), "utf-8")


if __name__ == "__main__":
    main()
