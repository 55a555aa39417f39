"""How package locks and their differences are shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from coreimage.cli.tables import table

if TYPE_CHECKING:
    from coreimage.model import LockedPackage, PackageLock
    from coreimage.rootfs.lock_diff import LockDiff


def locked_packages(name: str, lock: PackageLock) -> str:
    """Return the packages of a lock in columns, below what they are locked with."""
    tools = ", ".join(f"{tool} {version}" for tool, version in lock.tools.items()) or "the machine's own"
    archives = [f"# archive {release.uri} {release.suite}: {release.date}" for release in lock.releases]
    heading = [f"# {name}: {len(lock.packages)} packages, epoch {lock.epoch}", *archives, f"# tools: {tools}"]
    return "\n".join([*heading, table([_row(package) for package in lock.packages])])


def difference_lines(name: str, difference: LockDiff) -> str:
    """Return the lines of a difference between two locks, below the name of the part that they are of."""
    return "\n".join([f"{name}:", *(f"  {line}" for line in difference.lines() or ("no difference",))])


def as_json(values: object) -> str:
    """Return values that hold locks or differences as one JSON document."""
    from pydantic_core import to_jsonable_python  # noqa: PLC0415

    return json.dumps(to_jsonable_python(values))


def _row(package: LockedPackage) -> tuple[str, ...]:
    size, sha256 = str(package.size_bytes), package.sha256
    return package.name, package.version, package.architecture, size, sha256, package.archive
