"""Where the benchmarks work: a folder of their own, and one whole chain run in it that sections share."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.benchmarks.measure import measured

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "deployments/debian-core.yaml"
CHANNEL = "debian-core/13/edge"
BUILD = (sys.executable, "-m", "coreimage.cli", "build", CHANNEL, "--output", "x86.img", "--force")


@dataclass(frozen=True)
class Place:
    root: Path

    def folder(self, name: str) -> Path:
        """An empty one, for one section."""
        folder = self.root / name
        folder.mkdir()
        return folder

    @cached_property
    def store(self) -> Path:
        """A directory store with one built, published and released version of `CHANNEL`."""
        folder = self.folder("built")
        measured(BUILD, cwd=folder)
        return folder / "var/store"
