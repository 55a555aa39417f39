from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.model import LockedPackage
from coreimage.rootfs.memory import available_bytes, chroot_bytes

GIB = 1 << 30


def package(size_bytes: int) -> LockedPackage:
    return LockedPackage(
        name="a", version="1", architecture="all", sha256="0" * 64, size_bytes=size_bytes, filename="a", archive="x y"
    )


@pytest.mark.parametrize(("free_bytes", "in_memory"), [(0, False), (3 * GIB, False), (16 * GIB, True)])
def test_a_chroot_is_made_in_memory_only_where_there_is_plenty(free_bytes: int, *, in_memory: bool) -> None:
    found = chroot_bytes([package(50 << 20), package(100 << 20)], free_bytes)
    assert bool(found) == in_memory
    assert not found or found >= 10 * (150 << 20)


def test_a_container_has_no_more_memory_than_its_group(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9000000 kB\nMemAvailable:    8000000 kB\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 8_000_000 << 10
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 8_000_000 << 10
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 4000
    assert available_bytes(tmp_path / "nothing", tmp_path / "nothing") == 0
