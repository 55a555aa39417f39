"""What changed in packages between two states. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from debian.debian_support import version_compare

from coreimage.model import Value


class PackageChange(Value):
    """`old` is None for an added package, `new` for a removed one."""

    name: str
    old: str | None
    new: str | None

    @property
    def kind(self) -> str:
        """`added`, `removed`, `upgraded` or `downgraded`, by Debian's order of versions."""
        if self.old is None:
            return "added"
        if self.new is None:
            return "removed"
        return "upgraded" if version_compare(self.old, self.new) < 0 else "downgraded"

    def __str__(self) -> str:
        """`tar upgraded: 1.34 → 1.35`."""
        versions = [version for version in (self.old, self.new) if version is not None]
        return f"{self.name} {self.kind}: {' → '.join(versions)}"


def package_changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[PackageChange, ...]:
    """Every package whose version differs, was added or was removed, sorted by name."""
    return tuple(
        PackageChange(name=name, old=old.get(name), new=new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )
