from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from coreimage.errors import BuildError, HostError, ProcessError
from coreimage.host.disk_space import explain_full_disk
from coreimage.model import LockedPackage
from coreimage.rootfs.chroot import available_bytes, chroot_bytes, explain

GIB = 1 << 30


def package(size_bytes: int) -> LockedPackage:
    return LockedPackage(
        name="a", version="1", architecture="all", sha256="0" * 64, size_bytes=size_bytes, filename="a", archive="x y"
    )


def test_a_failed_hook_is_named_with_its_status_and_last_lines() -> None:
    error = ProcessError(["mmdebstrap"], 25, [])
    told = explain(error, ["I: running", "no such user", "coreimage-hook-failed hooks/users.sh 3", "E: setup failed"])
    assert isinstance(told, BuildError)
    assert "hooks/users.sh: ended with status 3" in str(told)
    assert "no such user" in str(told)
    assert isinstance(explain(error, ["dpkg: No space left on device"]), HostError)
    assert isinstance(explain(error, ["E: You don't have enough free space in /tmp/x/."]), HostError)
    assert "something else" in str(explain(error, ["something else"]))


@pytest.mark.parametrize(
    "line", ["E: IO Error saving source cache", "E: Write error - write (28: No space left on device)"]
)
def test_a_disk_that_fills_up_while_apt_plans_is_called_that(line: str) -> None:
    with pytest.raises(HostError, match=r"the disk is full.*\n.*TMPDIR"), explain_full_disk("planning"):
        raise ProcessError(["apt-get"], 100, [line])
    with pytest.raises(HostError, match="the disk is full"), explain_full_disk("planning"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ProcessError, match="broken"), explain_full_disk("planning"):
        raise ProcessError(["apt-get"], 100, ["broken"])


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
