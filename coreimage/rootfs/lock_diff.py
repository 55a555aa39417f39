"""What differs between two locks: packages, archives, tools, configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from coreimage.changes import PackageChange, package_changes
from coreimage.model import LockedPackage, PackageLock, Value

_SHORT = 12


class Difference(Value):
    """`old` is None for what came, `new` for what went."""

    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.name}: new, {self.new}"
        return f"{self.name}: {self.old} → {self.new}" if self.new is not None else f"{self.name}: gone, was {self.old}"


class LockDiff(Value):
    """All parts are sorted by name. `packages` has changed versions; `repacked` other .debs of the same version.

    `archives` is by `<uri> <suite>` and compares what their signed Releases say; `moved` are packages that come from
    another archive. `configuration` has digests, shortened.
    """

    packages: tuple[PackageChange, ...]
    repacked: tuple[Difference, ...]
    moved: tuple[Difference, ...]
    archives: tuple[Difference, ...]
    tools: tuple[Difference, ...]
    configuration: tuple[Difference, ...]
    epoch: tuple[Difference, ...]

    @property
    def empty(self) -> bool:
        return not self.lines()

    def lines(self) -> tuple[str, ...]:
        """For people: one line per difference."""
        packages = [f"package {change}" for change in self.packages]
        packages += [f"package {change}, the version being the same" for change in self.repacked]
        parts = [("package", self.moved), ("archive", self.archives), ("tool", self.tools), ("epoch", self.epoch)]
        others = [f"{part} {change}" for part, changes in parts for change in changes]
        return (*packages, *others, *(f"configuration {change}" for change in self.configuration))

    def summary(self) -> tuple[str, ...]:
        """For one line of a log: `packages changed (2)`, `tool xz-utils 5.4.1 → 5.6.2`, `hook 10-users.sh changed`."""
        count = len(self.packages) + len(self.repacked)
        packages = (f"packages changed ({count})",) if count else ()
        tools = tuple(f"tool {change}" for change in self.tools)
        return (*packages, *tools, *(f"{change.name} changed" for change in self.configuration))


def lock_diff(old: PackageLock, new: PackageLock) -> LockDiff:
    before, after = _by_name(old), _by_name(new)
    both = [name for name in sorted(before.keys() & after.keys()) if before[name].version == after[name].version]
    return LockDiff(
        packages=package_changes(_versions(before), _versions(after)),
        repacked=differences(*({name: side[name].sha256[:_SHORT] for name in both} for side in (before, after))),
        moved=differences(*({name: side[name].archive for name in both} for side in (before, after))),
        archives=differences(_releases(old), _releases(new)),
        tools=differences(old.tools, new.tools),
        configuration=differences(_shortened(old.configuration), _shortened(new.configuration)),
        epoch=differences({"of all files": str(old.epoch)}, {"of all files": str(new.epoch)}),
    )


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Difference, ...]:
    """Sorted by name."""
    names = sorted(old.keys() | new.keys())
    changed = [name for name in names if old.get(name) != new.get(name)]
    return tuple(Difference(name=name, old=old.get(name), new=new.get(name)) for name in changed)


def _by_name(lock: PackageLock) -> dict[str, LockedPackage]:
    return {package.name: package for package in lock.packages}


def _versions(packages: Mapping[str, LockedPackage]) -> dict[str, str]:
    return {name: package.version for name, package in packages.items()}


def _releases(lock: PackageLock) -> dict[str, str]:
    return {f"{r.uri} {r.suite}": f"{r.date} ({r.release_sha256[:_SHORT]})" for r in lock.releases}


def _shortened(digests: Mapping[str, str]) -> dict[str, str]:
    return {name: digest[:_SHORT] for name, digest in digests.items()}
