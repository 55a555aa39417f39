"""What differs between two locks: packages, archives, tools, configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from coreimage.model import PackageLock, Value
from coreimage.packages import PackageChange, package_changes

_SHORT = 12


class Difference(Value):
    """One thing that two locks say differently: `old` is None for what was added, `new` for what was removed."""

    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.name}: added, {self.new}"
        if self.new is None:
            return f"{self.name}: removed, was {self.old}"
        return f"{self.name}: {self.old} → {self.new}"


class LockDiff(Value):
    """All that differs between two locks. Every part is sorted by name."""

    packages: tuple[PackageChange, ...]
    """Other versions."""
    repacked: tuple[Difference, ...]
    """Other .debs of the same version."""
    moved: tuple[Difference, ...]
    """Packages that come from another archive."""
    archives: tuple[Difference, ...]
    """What the signed Releases say, by `<uri> <suite>`."""
    tools: tuple[Difference, ...]
    configuration: tuple[Difference, ...]
    """Digests, shortened."""
    epoch: tuple[Difference, ...]

    @property
    def empty(self) -> bool:
        """Whether the locks say the same."""
        return not self.lines()

    def lines(self) -> tuple[str, ...]:
        """Return a line for people about every difference."""
        packages = [f"package {change}" for change in self.packages]
        packages += [f"package {change}, the version being the same" for change in self.repacked]
        parts = [("package", self.moved), ("archive", self.archives), ("tool", self.tools), ("epoch", self.epoch)]
        others = [f"{part} {change}" for part, changes in parts for change in changes]
        return (*packages, *others, *(f"configuration {change}" for change in self.configuration))

    def summary(self) -> tuple[str, ...]:
        """Return short words for a log: `packages changed (2)`, `tool xz-utils 5.4.1 → 5.6.2`, `hook x.sh changed`."""
        count = len(self.packages) + len(self.repacked)
        packages = (f"packages changed ({count})",) if count else ()
        tools = tuple(f"tool {change}" for change in self.tools)
        return (*packages, *tools, *(f"{change.name} changed" for change in self.configuration))


def lock_diff(old: PackageLock, new: PackageLock) -> LockDiff:
    """Compare two locks."""
    before, after = ({package.name: package for package in lock.packages} for lock in (old, new))
    both = [name for name in sorted(before.keys() & after.keys()) if before[name].version == after[name].version]
    return LockDiff(
        packages=package_changes(
            *({name: package.version for name, package in side.items()} for side in (before, after))
        ),
        repacked=differences(*({name: side[name].sha256[:_SHORT] for name in both} for side in (before, after))),
        moved=differences(*({name: side[name].archive for name in both} for side in (before, after))),
        archives=differences(
            *(
                {f"{r.uri} {r.suite}": f"{r.date} ({r.release_sha256[:_SHORT]})" for r in lock.releases}
                for lock in (old, new)
            )
        ),
        tools=differences(old.tools, new.tools),
        configuration=differences(
            *({name: digest[:_SHORT] for name, digest in lock.configuration.items()} for lock in (old, new))
        ),
        epoch=differences({"of all files": str(old.epoch)}, {"of all files": str(new.epoch)}),
    )


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Difference, ...]:
    """Compare two mappings, and return every difference, sorted by name."""
    names = sorted(old.keys() | new.keys())
    changed = [name for name in names if old.get(name) != new.get(name)]
    return tuple(Difference(name=name, old=old.get(name), new=new.get(name)) for name in changed)
