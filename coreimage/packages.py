"""Manifests of packages, and what changed between two of them. Pure.

A manifest has one package a line, `<name> <version>` separated by blanks or a tab (live-build's `*.manifest`);
a name may carry its architecture (`libc6:amd64`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from debian.deb822 import Deb822
from debian.debian_support import version_compare

from coreimage.errors import VerificationError
from coreimage.model import Value

_VERSION = re.compile(r"(?:\d+:)?[A-Za-z0-9.+:~-]+")
"""The characters of deb-version(7)."""


class PackageChange(Value):
    """One package that differs between two states: `old` is None if it was added, `new` is None if it was removed."""

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
    """Compare two states, each with versions by package name, and return every difference, sorted by name."""
    return tuple(
        PackageChange(name=name, old=old.get(name), new=new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def dpkg_manifest(status: str) -> str:
    """Return the manifest of all packages that a dpkg status file has as installed, sorted by name."""
    stanzas = Deb822.iter_paragraphs(status.splitlines(), use_apt_pkg=False)
    lines = [f"{s['Package']}\t{s['Version']}\n" for s in stanzas if re.search(r"\binstalled$", s["Status"])]
    return "".join(sorted(lines))


def parse_manifest(text: str, where: str) -> dict[str, str]:
    """Read a manifest; empty lines and lines that begin with `#` are passed over.

    Returns:
        Versions by package name.

    Raises:
        VerificationError: A line is not a name and a Debian version, or a name is listed twice.
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
