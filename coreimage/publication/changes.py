"""Manifests of packages, and how changes between two of them are shown. Pure.

A manifest has one package a line, `<name> <version>` separated by blanks or a tab (live-build's `*.manifest`);
a name may carry its architecture (`libc6:amd64`).
"""

from __future__ import annotations

import re

from coreimage.changes import PackageChange
from coreimage.errors import VerificationError

_VERSION = re.compile(r"(?:\d+:)?[A-Za-z0-9.+:~-]+")
"""The characters of deb-version(7)."""


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


def markdown_rows(changes: tuple[PackageChange, ...]) -> tuple[str, ...]:
    """Rows of a Markdown table with the columns of `MARKDOWN_HEADER`, in the order of `changes`."""
    return tuple(
        f"| {_cell(change.name)} | {change.kind} | {_cell(change.old)} | {_cell(change.new)} |" for change in changes
    )


MARKDOWN_HEADER = ("| Package | Change | Before | After |", "|---|---|---|---|")


def _cell(text: str | None) -> str:
    return "" if text is None else f"`{text}`".replace("|", "\\|")
