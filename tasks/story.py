"""The texts of the lines that a run tells about a task: one when it begins, one with its outcome when it ends."""

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
    """Return the line for a task that begins."""
    return f"{title}..."


def ending(result: object, duration_s: float) -> str:
    """Return the line for a task that ends, which stands below the line of its beginning."""
    return f"  {outcome(result) or 'done'} ({duration(duration_s)})"


def remembered(title: str, result: object) -> str:
    """Return the one line for a task whose result was remembered."""
    return f"{title}: {', '.join(filter(None, [outcome(result), 'cached']))}"


def made_remotely(title: str, result: object, duration_s: float) -> str:
    """Return the one line for a task that another worker has run for this run."""
    return f"{title}: {outcome(result) or 'done'} ({duration(duration_s)}, on another worker)"


def outcome(result: object) -> str:
    """Describe the result of a task in a few words; return "" for a result that tells people nothing."""
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
    Candidate: lambda candidate: f"version {candidate.version}, {_size(*candidate.files)} to download",
    DiskImage: lambda disk: f"a disk of {decimal_size(disk.raw_size_bytes)}, {_size(disk.image)} compressed",
    BootReport: lambda boot: f"{boot.reason} after {boot.duration_s:.0f} s with {boot.accelerator}",
    Release: lambda release: f"the channel is at version {release.version}",
}


def packages(lock: PackageLock, changed: int | None) -> str:
    """Return the line about a lock.

    Args:
        lock: The lock.
        changed: How many packages were added, removed or changed since the last release; None before the first.
    """
    size = decimal_size(sum(package.size_bytes for package in lock.packages))
    change = "" if changed is None else f", {changed or 'none'} changed"
    return f"  {len(lock.packages)} packages, {size}{change}"


def duration(seconds: float) -> str:
    """Write a time as `0.4 s`, `17 s` or `3 min 48 s`."""
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE_S)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
