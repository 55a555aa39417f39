"""The way from an installed version to the newest that a device is offered (system-image §3.3 to §3.5). Pure.

Unlike the original's, the search looks at each image once, is the same for the same index whatever its order, and a
device outside of a phase gets the newest version that it is offered, rather than nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coreimage.client.documents import Image

_ALL = 100


@dataclass(frozen=True)
class Path:
    """`images` are applied in this order; none when the device is up to date."""

    images: tuple[Image, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for image in self.images for file in image.files)

    @property
    def version(self) -> int | None:
        """Where it leads."""
        return self.images[-1].version if self.images else None


def find_path(images: Sequence[Image], build: int, *, device_percent: int = 0) -> Path:
    """The cheapest way from version `build` (0: none) to the newest version that leads on from it and is offered.

    Cheapest is fewest bytes, then fewest images, then fewest files, then a full image; each image is looked at once.
    `device_percent` is what `phase_of` gives. Deltas that lead nowhere or back are never taken.
    """
    start = _Step(_Cost(0, 0, 0, 0), None, None)
    best: dict[int, _Step] = {build: start}
    phases: dict[int, list[int]] = {}
    for image in sorted(images, key=lambda image: (image.version, image.type, image.base or 0, image.form)):
        phases.setdefault(image.version, []).append(image.phased_percentage)
        before = start if image.type == "full" else best.get(image.base or 0)
        if image.version <= build or before is None or not _leads_on(image, build):
            continue
        found = _Step(before.cost.after(image), image, before)
        if image.version not in best or found.cost < best[image.version].cost:
            best[image.version] = found
    offered = [version for version in best if version == build or _is_offered(phases[version], device_percent)]
    return best[max(offered)].path()


def phase_of(channel: str, target: int, machine_id: str) -> int:
    """0 to 100: a device gets a version whose phased percentage is not less (system-image §3.5).

    `channel` is the alias where the device follows one; `target` is the newest version that there is a way to.
    """
    return random.Random(f"{channel}.{target}.{machine_id}").randint(0, _ALL)  # noqa: S311 - a spread, no secret


def newest_reachable(images: Iterable[Image], build: int) -> int:
    """The newest version that there is a way to, offered or not; `build` when there is none."""
    everything = [_unphased(image) for image in images]
    return find_path(everything, build).version or build


def starting_build(build: int, alias: str | None, channel_target: str | None) -> int:
    """Where an alias leads elsewhere now, nothing of what is installed counts (system-image §3.2)."""
    return 0 if alias is not None and channel_target is not None and alias != channel_target else build


@dataclass(frozen=True, order=True)
class _Cost:
    size_bytes: int
    images: int
    files: int
    deltas: int

    def after(self, image: Image) -> _Cost:
        return _Cost(
            self.size_bytes + sum(file.size_bytes for file in image.files),
            self.images + 1,
            self.files + len(image.files),
            self.deltas + (image.type == "delta"),
        )


@dataclass(frozen=True)
class _Step:
    """The cheapest way to a version: its last image, and the step before."""

    cost: _Cost
    image: Image | None
    before: _Step | None

    def path(self) -> Path:
        images: list[Image] = []
        step: _Step | None = self
        while step is not None and step.image is not None:
            images.append(step.image)
            step = step.before
        return Path(tuple(reversed(images)))


def _leads_on(image: Image, build: int) -> bool:
    """Whether a device may take it. A full image that is closed to all who do not have it tells only appliers of 2015
    to keep away from deltas after it; it is whole all the same."""
    if image.type == "delta":
        return (image.base or 0) < image.version
    return image.minversion <= build or image.minversion >= image.version


def _is_offered(phases: Iterable[int], device_percent: int) -> bool:
    return all(phase > 0 and device_percent <= phase for phase in phases)


def _unphased(image: Image) -> Image:
    return replace(image, phased_percentage=_ALL)
