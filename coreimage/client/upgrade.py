"""Which images a device takes: the path from its version to the newest that it is offered (system-image §3.3 to §3.5).

Pure. Unlike the original's, the search looks at each image once and gives the same for the same images in any order;
and a device outside of a phase gets the newest version that it is offered, rather than nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coreimage.client.documents import Image
from coreimage.client.errors import NotPresentError

_ALL_DEVICES = 100


@dataclass(frozen=True)
class UpgradePath:
    """Images that are applied one after the other; none when the device is up to date."""

    images: tuple[Image, ...]

    @property
    def size_bytes(self) -> int:
        """What the device downloads."""
        return sum(image.size_bytes for image in self.images)

    @property
    def version(self) -> int | None:
        """The version that the path leads to; None when there is nothing to apply."""
        return self.images[-1].version if self.images else None


@dataclass(frozen=True, order=True)
class _Cost:
    """What a path costs; of two paths the device takes the lesser, by the fields in this order."""

    size_bytes: int
    images: int
    files: int
    deltas: int

    def plus(self, image: Image) -> _Cost:
        """Return the cost of a path that `image` prolongs."""
        return _Cost(
            self.size_bytes + image.size_bytes,
            self.images + 1,
            self.files + len(image.files),
            self.deltas + (image.type == "delta"),
        )


@dataclass(frozen=True)
class _Arrival:
    """The cheapest path to a version: its last image, and the arrival before. At the start there is neither."""

    cost: _Cost
    image: Image | None = None
    before: _Arrival | None = None

    def path(self) -> UpgradePath:
        """Return the images from the start to here."""
        images: list[Image] = []
        arrival: _Arrival | None = self
        while arrival is not None and arrival.image is not None:
            images.append(arrival.image)
            arrival = arrival.before
        return UpgradePath(tuple(reversed(images)))


def find_path(images: Sequence[Image], installed: int, *, device_percent: int = 0) -> UpgradePath:
    """Find the cheapest path to the newest version that can be reached and is offered.

    Cheapest is fewest bytes, then fewest images, then fewest files, then fewest deltas.

    Args:
        images: All images of an index, in any order. Deltas that lead nowhere or back are never taken.
        installed: The installed version; 0 for none.
        device_percent: What `phase_of` gives; 0 takes part in every phase.
    """
    start = _Arrival(_Cost(0, 0, 0, 0))
    best: dict[int, _Arrival] = {installed: start}
    phases: dict[int, list[int]] = {}
    for image in sorted(images, key=lambda image: (image.version, image.type, image.base or 0, image.form)):
        phases.setdefault(image.version, []).append(image.phased_percentage)
        before = start if image.type == "full" else best.get(image.base or 0)
        if image.version <= installed or before is None or not _may_take(image, installed):
            continue
        arrival = _Arrival(before.cost.plus(image), image, before)
        if image.version not in best or arrival.cost < best[image.version].cost:
            best[image.version] = arrival
    offered = [version for version in best if version == installed or _is_offered(phases[version], device_percent)]
    return best[max(offered)].path()


def select_full(images: Sequence[Image], revision: int = 0) -> Image:
    """Return the full image that a revision names, as ubuntu-device-flash counts.

    Args:
        images: All images of an index, in any order.
        revision: 0 is the newest full image, -n the n-th full one before it, +n the one of version n.

    Raises:
        NotPresentError: There is no such full image.
    """
    newest_first = sorted((image for image in images if image.type == "full"), key=lambda image: -image.version)
    named = [image for image in newest_first if image.version == revision] if revision > 0 else newest_first[-revision:]
    if not named:
        known = ", ".join(str(image.version) for image in newest_first) or "none"
        raise NotPresentError(f"there is no full image for revision {revision} (versions there are: {known})")
    return named[0]


def phase_of(channel: str, target: int, machine_id: str) -> int:
    """Return a device's place in a phased release, 0 to 100: it gets a version whose phased percentage is not less.

    The value is the original client's (system-image §3.5).

    Args:
        channel: The channel that the device follows; the target's name where it follows an alias.
        target: The newest version that can be reached.
        machine_id: The device's machine id.
    """
    return random.Random(f"{channel}.{target}.{machine_id}").randint(0, _ALL_DEVICES)  # noqa: S311 - no secret


def newest_reachable(images: Iterable[Image], installed: int) -> int:
    """Return the newest version that can be reached, offered or not; `installed` when there is none."""
    unphased = [replace(image, phased_percentage=_ALL_DEVICES) for image in images]
    return find_path(unphased, installed).version or installed


def starting_version(installed: int, alias: str | None, channel_target: str | None) -> int:
    """Return the version to start from: 0 where the alias leads elsewhere than when `installed` was installed, as
    nothing of that counts then (system-image §3.2)."""
    return 0 if alias is not None and channel_target is not None and alias != channel_target else installed


def _may_take(image: Image, installed: int) -> bool:
    """Return whether the image's own conditions allow it.

    A full image whose `minversion` is its own version is closed to clients of 2015 only: their appliers could not
    take the deltas after it.
    """
    if image.type == "delta":
        return (image.base or 0) < image.version
    return image.minversion <= installed or image.minversion >= image.version


def _is_offered(phases: Iterable[int], device_percent: int) -> bool:
    return all(phase > 0 and device_percent <= phase for phase in phases)
