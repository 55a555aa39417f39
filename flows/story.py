"""What a run tells while it goes on: a line when a step begins, a line with what it gave when it ends.

The lines go to the logger `coreimage.story`: to the run's log like all others, and to the terminal of whoever waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coreimage.logs import decimal_size
from coreimage.model import (
    ArchiveRelease,
    ArtifactRef,
    BootReport,
    Candidate,
    DeviceBuild,
    DiskImage,
    PackageLock,
    PublishedBuild,
    Release,
    RootfsBuild,
)

_MINUTE_S = 60


def beginning(title: str) -> str:
    return f"{title}..."


def end(title: str, result: Any, *, cached: bool, duration_s: float, begun: bool = True) -> str:
    """A remembered step has one line; any other has had its beginning, unless it was taken on another machine."""
    found = outcome(result)
    if cached:
        return f"{title}: {found + ', ' if found else ''}cached"
    if not begun:
        return f"{title}: {found or 'done'} ({duration(duration_s)}, on another worker)"
    return f"  {found or 'done'} ({duration(duration_s)})"


def outcome(result: Any) -> str:
    """What a step determined or made, in a few words; empty for a result that says nothing to a person."""
    if isinstance(result, tuple):
        return ", ".join(map(outcome, result))
    describe = next((_OUTCOMES[kind] for kind in type(result).__mro__ if kind in _OUTCOMES), None)
    return describe(result) if describe else ""


def _size(*artifacts: ArtifactRef) -> str:
    return decimal_size(sum(artifact.size_bytes for artifact in artifacts))


_OUTCOMES: dict[type, Callable[[Any], str]] = {
    ArchiveRelease: lambda release: f"{release.suite} of {release.date[:10]}",
    RootfsBuild: lambda built: f"a tarball of {_size(built.rootfs)}",
    DeviceBuild: lambda built: f"a tarball of {_size(built.tarball)}",
    PublishedBuild: lambda build: f"build {build.build_id}, {len(build.files)} files",
    Candidate: lambda made: f"version {made.version}, {_size(*(file.artifact for file in made.files))} to download",
    DiskImage: lambda disk: f"a disk of {decimal_size(disk.raw_size_bytes)}, {_size(disk.image)} compressed",
    BootReport: lambda boot: f"{boot.reason} after {boot.duration_s:.0f} s with {boot.accelerator}",
    Release: lambda release: f"the channel is at version {release.version}",
}


def packages(lock: PackageLock, changed: int, *, first: bool) -> str:
    """`changed` counts the packages that came, went or have another version than in the previous lock."""
    size = decimal_size(sum(package.size_bytes for package in lock.packages))
    news = "" if first else f", {changed or 'none'} changed"
    return f"  {len(lock.packages)} packages, {size}{news}"


def duration(seconds: float) -> str:
    """`0.4 s`, `17 s`, `3 min 48 s`."""
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE_S)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
