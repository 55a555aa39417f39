"""What changed in packages between two manifests. Pure.

A manifest has one package a line, `<name> <version>` separated by blanks or a tab (live-build's `*.manifest`);
a name may carry its architecture (`libc6:amd64`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from debian.debian_support import version_compare

from coreimage.errors import VerificationError
from coreimage.model import Value

_VERSION = re.compile(r"(?:\d+:)?[A-Za-z0-9.+:~-]+")
"""The characters of deb-version(7)."""


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


def parse_manifest(text: str, where: str) -> dict[str, str]:
    """Versions by package name. Empty lines and lines that begin with `#` do not count.

    Raises VerificationError for a line that is not a name and a Debian version, or a name listed twice.
    """
    versions: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match line.split():
            case [name, version] if name not in versions and _VERSION.fullmatch(version):
                versions[name] = version
            case _:
                raise VerificationError(
                    f"line {number} is not `<package> <version>` with a new package: {line[:100]!r}",
                    where=where,
                    resolution="build the rootfs again with --refresh",
                )
    return versions


def package_changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[PackageChange, ...]:
    """Every package whose version differs, was added or was removed, sorted by name."""
    return tuple(
        PackageChange(name=name, old=old.get(name), new=new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def markdown_rows(changes: tuple[PackageChange, ...]) -> tuple[str, ...]:
    """Rows of a Markdown table with the columns of `MARKDOWN_HEADER`, in the order of `changes`."""
    return tuple(
        f"| {_cell(change.name)} | {change.kind} | {_cell(change.old)} | {_cell(change.new)} |" for change in changes
    )


MARKDOWN_HEADER = ("| Package | Change | Before | After |", "|---|---|---|---|")


def _cell(text: str | None) -> str:
    return "" if text is None else f"`{text}`".replace("|", "\\|")
