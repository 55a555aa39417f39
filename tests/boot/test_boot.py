"""A tiny system under both firmwares, and GRUB's choice of slot."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from coreimage.architecture.grub import FOLDER
from coreimage.boot_test import boot, boot_tests, make_overlay, require_boot, start_machine
from coreimage.disk_image.boot_loaders import grub_environment
from coreimage.disk_image.gpt import read_table
from coreimage.errors import BootError
from coreimage.host.children import Child
from coreimage.host.process import run, spawn
from coreimage.model import Firmware
from coreimage.storage import open_store, read_blob


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_boots_to_the_login_prompt(tiny_image: Path, firmware: Firmware, accelerator: str, tmp_path: Path) -> None:
    outcome = boot(
        tiny_image,
        firmware,
        "amd64",
        run=run,
        spawn=spawn,
        work_folder=tmp_path,
        accelerator=accelerator,
        timeout_s=120,
    )
    assert outcome.passed, outcome.last_lines
    assert b"root=LABEL=system-a ro" in outcome.serial_log


def test_both_firmwares_at_once(tiny_image: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    reports = boot_tests(
        tiny_image,
        "0" * 64,
        ("uefi", "bios"),
        "amd64",
        store=store,
        run=run,
        spawn=spawn,
        work_folder=tmp_path,
    )
    assert [(report.firmware, report.passed) for report in reports] == [("uefi", True), ("bios", True)]


def test_an_interrupt_ends_the_machines(tiny_image: Path, tmp_path: Path) -> None:
    started = Queue[int]()

    @contextmanager
    def interrupting(*args: Any, **kwargs: Any) -> Iterator[Child]:
        with spawn(*args, **kwargs) as child:
            started.put(child.pid)
            if started.qsize() == 2:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            yield child

    store = open_store(str(tmp_path / "store"))
    with pytest.raises(KeyboardInterrupt):
        boot_tests(
            tiny_image,
            "0" * 64,
            ("bios", "uefi"),
            "amd64",
            store=store,
            run=run,
            spawn=interrupting,
            work_folder=tmp_path,
        )
    assert not [pid for pid in (started.get(), started.get()) if Path(f"/proc/{pid}").exists()]


def test_an_image_without_kernels_fails_with_its_last_lines(tiny_image: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.img"
    run(["cp", "--sparse=always", tiny_image, broken])
    run(["mdel", "-i", _boot_partition(broken), f"::{FOLDER}/a/vmlinuz"])
    store = open_store(str(tmp_path / "store"))
    (report,) = boot_tests(
        broken,
        "0" * 64,
        ("bios",),
        "amd64",
        store=store,
        run=run,
        spawn=spawn,
        work_folder=tmp_path,
        timeout_s=60,
    )
    assert "slot" in report.reason
    assert b"slot a does not start" in read_blob(store, report.serial_log)
    with pytest.raises(BootError, match="slot a does not start"):
        require_boot(report)


@pytest.mark.parametrize(
    ("state", "slots"),
    [
        (grub_environment({"slot": "a", "trial": "b", "tries": "0", "failed": ""}), "baa"),
        (grub_environment({"slot": "b", "trial": "", "tries": "0", "failed": ""}), "b"),
        (b"garbage" * 100, "aa"),
    ],
    ids=["unconfirmed trial falls back and stays", "confirmed b stays", "garbage gives a"],
)
def test_slot_walk(tiny_image: Path, accelerator: str, tmp_path: Path, state: bytes, slots: str) -> None:
    image = tmp_path / "walk.img"
    run(["cp", "--sparse=always", tiny_image, image])
    _with_both_slots(image, state, tmp_path)
    disk = make_overlay(image, tmp_path / "walk.qcow2", run=run)
    with start_machine(
        disk, "bios", "amd64", run_folder=tmp_path, spawn=spawn, accelerator=accelerator, reboot=True
    ) as machine:
        for slot in slots:
            assert machine.console.expect(r"root=LABEL=system-[ab] ", 90)[-2] == slot
            machine.console.expect("tiny login: ", 60)
            machine.console.send("admin\n")
            machine.console.expect("hello admin", 60)


def _boot_partition(image: Path) -> str:
    return f"{image}@@{next(p for p in read_table(image) if p.name == 'system-boot').offset_bytes}"


def _with_both_slots(image: Path, state: bytes, folder: Path) -> None:
    place = _boot_partition(image)
    for name in ("vmlinuz", "initrd.img"):
        run(["mcopy", "-i", place, f"::{FOLDER}/a/{name}", folder / name])
        run(["mcopy", "-i", place, folder / name, f"::{FOLDER}/b/{name}"])
    (folder / "grubenv").write_bytes(state)
    run(["mcopy", "-o", "-i", place, folder / "grubenv", f"::{FOLDER}/grubenv"])
