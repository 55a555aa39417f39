"""Candidate paths, their scores, and phasing (§3.3 to §3.6), as literally as they are described.

The search tries every chain, as the original's does, and gives up where that would take the original too long.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count
from typing import Any

from tests.harness.strict_client.refusal import require

Image = dict[str, Any]
Path = tuple[Image, ...]
_MIB = 1 << 20
_LONGEST_SEARCH = 5_000
"""How many paths are looked at: 22 versions with two deltas to each have 46,367 (§3.3)."""


def candidates(images: Sequence[Image], build: int) -> list[Path]:
    """Every path that cannot be extended; an image is never taken twice, as a loop of deltas would have no end."""
    deltas = [image for image in images if image["type"] == "delta"]
    usable = [image for image in images if image["type"] == "full" and image.get("minversion", 0) <= build]
    roots = [image for image in usable if image["version"] > build] + [d for d in deltas if d["base"] == build]
    found: list[Path] = []
    growing: list[Path] = [(root,) for root in roots]
    for tried in count():
        if not growing:
            break
        require(tried < _LONGEST_SEARCH, f"the search for a way from {build} does not end")
        path = growing.pop(0)
        after = [delta for delta in deltas if delta["base"] == path[-1]["version"] and delta not in path]
        growing += [(*path, delta) for delta in after]
        found += [] if after else [path]
    return found


def score(path: Path, every: Sequence[Path]) -> int:
    reboots = sum(bool(image.get("bootme")) for image in path)
    smallest = min(map(size, every))
    behind: int = max(other[-1]["version"] for other in every) - path[-1]["version"]
    return 100 * reboots + (size(path) - smallest) // _MIB + 9000 * behind + behind


def size(path: Path) -> int:
    return sum(int(file["size"]) for image in path for file in image["files"])


def winner(images: Sequence[Image], build: int, percentage: int) -> Path:
    """The best path whose last image is offered to a device of this percentage; empty when there is none."""
    every = candidates(images, build)
    for path in sorted(every, key=lambda path: score(path, every)):
        phase = int(path[-1].get("phased-percentage", 100))
        if phase > 0 and percentage <= phase:
            return path
    return ()


def device_percentage(channel: str | None, target: int, machine_id: str) -> int:
    """`channel` is None, and says so, for a device that follows no alias."""
    return random.Random(f"{channel}.{target}.{machine_id}").randint(0, 100)  # noqa: S311 - no secret
