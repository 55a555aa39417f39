"""Which programs an emulator is registered for, and when a machine needs one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from coreimage.errors import HostError, ProcessError
from coreimage.rootfs import chroot, emulation
from coreimage.rootfs.emulation import Emulator, emulator

ENTRY = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def which(name: str, **_: Any) -> str | None:
        return "/bin/true" if name == "qemu-aarch64-static" else None

    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6.18", "#1", "x86_64")))
    monkeypatch.setattr(shutil, "which", which)


def arm64() -> Emulator:
    found = emulator("arm64")
    assert found
    return found


def matches(found: Emulator, program: bytes) -> bool:
    """As the kernel looks at the beginning of a file."""
    head = program.ljust(len(found.magic), b"\0")
    return all(byte & mask == magic & mask for byte, mask, magic in zip(head, found.mask, found.magic, strict=False))


def elf(machine: int, kind: int, abi: int = 0) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes([abi]) + bytes(8) + kind.to_bytes(2, "little") + machine.to_bytes(2, "little")


def test_a_machine_needs_nothing_for_its_own_programs() -> None:
    assert emulator("amd64") is None


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        (elf(183, 2), True),
        (elf(183, 3), True),
        (elf(183, 3, abi=3), True),
        (elf(183, 1), False),
        (elf(62, 3), False),
        (b"#!/bin/sh\n", False),
    ],
    ids=["executable", "position-independent", "GNU's ABI", "object file", "amd64", "script"],
)
def test_arm64_programs_are_emulated_and_no_others(program: bytes, wanted: bool) -> None:
    assert matches(arm64(), program) is wanted


def test_the_kernel_would_keep_what_is_registered() -> None:
    """Documentation/admin-guide/binfmt-misc.rst: seven fields, in fewer than 1920 bytes."""
    line = arm64().registration()
    name, kind, offset, magic, mask, _, flags = line.strip(":").split(":")
    assert (name, kind, offset, flags) == ("coreimage-arm64", "M", "", "PFC")
    assert bytes.fromhex(magic.replace("\\x", "")) == arm64().magic
    assert bytes.fromhex(mask.replace("\\x", "")) == arm64().mask
    assert len(line) < 1920


@pytest.mark.parametrize(
    ("entry", "works"),
    [
        (ENTRY, True),
        (ENTRY.replace("enabled", "disabled"), False),
        (ENTRY.replace("POCF", "POC"), False),
        (ENTRY.replace("b700", "3e00"), False),
    ],
    ids=["Debian's", "switched off", "not to be found in a chroot", "another architecture"],
)
def test_what_is_registered_for_the_whole_machine(tmp_path: Path, entry: str, works: bool) -> None:
    (tmp_path / "register").write_text(entry)
    (tmp_path / "qemu-aarch64").write_text(entry)
    assert arm64().is_machine_wide(tmp_path) is works


def test_the_package_is_named_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(HostError, match="apt-get install qemu-user-static"):
        emulator("arm64")


def test_a_kernel_that_cannot_is_told_from_a_package_that_fails() -> None:
    error = ProcessError(("sh",), 1, [])
    found = chroot.explain(error, [emulation.REFUSED])
    assert isinstance(found, HostError)
    assert "Linux 6.7" in str(found)
    assert "binfmt-support" in found.resolution
