"""An extra archive brings packages of its own; the distribution's it replaces only where the project says so. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from coreimage.errors import BuildError
from coreimage.model import ArchiveRelease, LockedPackage
from coreimage.rootfs.spec import ArchiveSpec

ANY = "*"
_MADISON = re.compile(r"^ *(?P<name>\S+) \| *(?P<version>\S+) \| \S*/mirror/(?P<number>\d+) ", re.M)


def offered(madison: str) -> dict[str, set[int]]:
    """Reads `apt-cache madison`: the numbers of the mirrors that offer a package, by its name."""
    found: dict[str, set[int]] = {}
    for match in _MADISON.finditer(madison):
        found.setdefault(match["name"], set()).add(int(match["number"]))
    return found


def check_replacements(
    packages: Iterable[LockedPackage],
    archives: Sequence[ArchiveSpec],
    releases: Sequence[ArchiveRelease],
    mirrors: Mapping[str, set[int]],
) -> None:
    """Raises BuildError for a package of an extra archive that the distribution has too, unless `may_replace` has it.

    `archives[n]` and `releases[n]` are of mirror n; `mirrors` says which mirrors offer a package.
    """
    own = {number for number, archive in enumerate(archives) if archive.may_replace is None}
    numbers = {f"{release.uri} {release.suite}": number for number, release in enumerate(releases)}
    for package in packages:
        allowed = archives[numbers[package.archive]].may_replace
        if allowed is None or package.name in allowed or ANY in allowed or not mirrors.get(package.name, set()) & own:
            continue
        raise BuildError(
            f"it would replace the distribution's {package.name} with its {package.version}",
            where=package.archive,
            resolution=f"if that is wanted, put {package.name} into the archive's `may_replace`; "
            "if not, give it a pin_priority below 500",
        )
