from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from coreimage.boot_test import accelerator
from coreimage.boot_test.accelerator import KVM, TCG, probe_accelerator, probe_boot_sector
from coreimage.errors import ProcessError
from coreimage.host.process import Completed, run


class Host:
    """Runs a probe's guest, or does not; counts the times that it was asked."""

    def __init__(self, *, works: bool) -> None:
        self.works, self.asked = works, 0

    def run(self, argv: Any, **_: Any) -> Completed:
        self.asked += 1
        if not self.works:
            raise ProcessError(("qemu-system-x86_64",), 1, ["no"])
        return Completed(("qemu-system-x86_64",), 0x21, "")


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "_KVM_DEVICE", device)
    monkeypatch.setenv("COREIMAGE_CACHE", str(tmp_path / "cache"))
    return device


def test_the_probe_is_a_boot_sector() -> None:
    assert probe_boot_sector()[510:512] == b"\x55\xaa"


def test_its_guest_reaches_long_mode_where_it_is_emulated(tmp_path: Path) -> None:
    (tmp_path / "probe.img").write_bytes(probe_boot_sector())
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-drive", f"if=virtio,format=raw,file={tmp_path}/probe.img"]
    run([*argv, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"], timeout_s=60, accept=(0x21,))


@pytest.mark.parametrize(("works", "found"), [(True, KVM), (False, TCG)])
def test_the_host_is_asked_once(kvm: Path, tmp_path: Path, *, works: bool, found: str) -> None:
    host = Host(works=works)
    assert [probe_accelerator("amd64", run=host.run, work_folder=tmp_path) for _ in range(3)] == [found] * 3
    assert host.asked == 1


def test_another_device_is_asked_anew(kvm: Path, tmp_path: Path) -> None:
    assert probe_accelerator("amd64", run=Host(works=False).run, work_folder=tmp_path) == TCG
    kvm.chmod(0o600)
    os.utime(kvm, (0, 0))
    assert probe_accelerator("amd64", run=Host(works=True).run, work_folder=tmp_path) == KVM


def test_a_damaged_memory_is_no_answer(kvm: Path, tmp_path: Path) -> None:
    probe_accelerator("amd64", run=Host(works=True).run, work_folder=tmp_path)
    (memory,) = (tmp_path / "cache").iterdir()
    for damage in ("", "[]", '{"host": 1, "found": "kvm"}'):
        memory.write_text(damage)
        host = Host(works=True)
        assert probe_accelerator("amd64", run=host.run, work_folder=tmp_path) == KVM
        assert host.asked == 1


def test_without_the_device_nothing_is_started(kvm: Path, tmp_path: Path) -> None:
    kvm.unlink()
    host = Host(works=True)
    assert probe_accelerator("amd64", run=host.run, work_folder=tmp_path) == TCG
    assert host.asked == 0
