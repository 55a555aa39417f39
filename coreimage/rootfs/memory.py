"""Whether a chroot may be made in memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from coreimage.model import LockedPackage

_GROWTH = 10
"""A chroot with its packages still in it, over the size of the packages: 6 is usual, 8 with an initrd."""
_LEAST_BYTES = 256 << 20
_SHARE = 3
"""Of the free memory one chroot takes no more than this part: another may be made beside it."""


def chroot_bytes(packages: Sequence[LockedPackage], available_bytes: int) -> int:
    """Pure: how large a chroot of the packages may become in memory; 0 when that would be too large for it."""
    wanted = _LEAST_BYTES + _GROWTH * sum(package.size_bytes for package in packages)
    return wanted if wanted * _SHARE <= available_bytes else 0


def available_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """What this machine, or the control group of a container (cgroup v2), still has; 0 when nobody tells."""
    found = re.search(r"^MemAvailable: +([0-9]+) kB$", _read(meminfo), re.M)
    machine_bytes = int(found[1]) << 10 if found else 0
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    return min(machine_bytes, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else machine_bytes


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
