"""The host's tools that shape bytes: another version of one may write other bytes from the same inputs."""

from __future__ import annotations

import platform
import re
import zlib

from coreimage.process import Run

PACKAGES = (
    *("mmdebstrap", "apt", "dpkg", "tar", "xz-utils", "zstd"),
    *("e2fsprogs", "dosfstools", "mtools", "grub-common", "grub-pc-bin", "grub-efi-amd64-bin", "grub-efi-arm64-bin"),
)
"""Debian's names of what makes chroots, tarballs, file systems and boot loaders.

Asked of dpkg rather than of the tools: the package's version also tells a distribution's patches apart.
"""

ABSENT = "absent"
_INSTALLED = re.compile(r"^installed (\S+) (\S+)$", re.M)


def tool_versions(*, run: Run) -> dict[str, str]:
    """Version by tool, sorted by name; `absent` for what dpkg does not know. `gzip` is the zlib that Python uses."""
    form = "${db:Status-Status} ${Package} ${Version}\n"
    known = run(["dpkg-query", "--show", f"--showformat={form}", *PACKAGES], accept=(0, 1)).output
    return versions_of(known, platform.python_version(), zlib.ZLIB_RUNTIME_VERSION)


def versions_of(known: str, python: str, zlib_version: str) -> dict[str, str]:
    """Pure: `known` has a line `installed NAME VERSION` per installed package, and others that do not count."""
    found = {match[1]: match[2] for match in _INSTALLED.finditer(known)}
    tools = {name: found.get(name, ABSENT) for name in PACKAGES}
    return dict(sorted({**tools, "python": python, "gzip": f"zlib {zlib_version}"}.items()))
