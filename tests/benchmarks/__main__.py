"""`make benchmark [ONLY="NAME …"]`: measures, and writes what it found to docs/performance/NAME.md.

Each section is a module of this package with `section(place) -> str`: a page in Markdown, its figures ratios against
a peer or a limit within one run.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from tests.benchmarks.page import measured_on
from tests.benchmarks.place import Place

SECTIONS = ("chain", "rootfs", "assembly", "tree_scale", "publication", "deltas", "orchestration")
PAGES = Path(__file__).parents[2] / "docs/performance"


class Section(Protocol):
    def section(self, place: Place) -> str: ...


def main(names: list[str]) -> None:
    unknown = set(names) - set(SECTIONS)
    if unknown:
        sys.exit(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    with tempfile.TemporaryDirectory(prefix="coreimage-benchmark-") as folder:
        place = Place(Path(folder))
        for name in names or SECTIONS:
            text = cast("Section", import_module(f"tests.benchmarks.{name}")).section(place)
            page = f"{text.strip()}\n\n{measured_on(name)}\n"
            (PAGES / f"{name}.md").write_text(page)
            sys.stdout.write(f"{page}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
