"""Every form in which an image is handed out: opened by its own tool, and booted."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from coreimage.boot_test import boot
from coreimage.disk_image import Compression, Form, form_of, write_bmap, write_form
from coreimage.disk_image.table import read_partitions
from coreimage.host.process import run, spawn


def _copy(image: Path, target: Path) -> Path:
    run(["cp", "--sparse=always", image, target])
    return target


def _boots(image: Path, accelerator: str, work: Path) -> bool:
    folder = work / "boot"
    folder.mkdir()
    outcome = boot(
        image,
        "bios",
        "amd64",
        run=run,
        spawn=spawn,
        work_folder=folder,
        accelerator=accelerator,
        timeout_s=120,
    )
    return outcome.passed


@pytest.mark.parametrize("form", ["qcow2", "vmdk"])
def test_of_virtual_machines(tiny_image: Path, form: Form, accelerator: str, tmp_path: Path) -> None:
    made = [write_form(tiny_image, tmp_path / f"{number}.{form}", form, None, run=run) for number in range(2)]
    assert made[0].read_bytes() == made[1].read_bytes(), "the same image gives the same bytes"
    assert form_of(made[0]) == form
    assert f"file format: {form}" in run(["qemu-img", "info", made[0]]).output
    run(["qemu-img", "check", made[0]], accept=(0,) if form == "qcow2" else (0, 63))
    run(["qemu-img", "compare", "-f", "raw", "-F", form, tiny_image, made[0]])
    run(["qemu-img", "convert", "-f", form, "-O", "raw", made[0], tmp_path / "disk.img"])
    assert _boots(tmp_path / "disk.img", accelerator, tmp_path)


@pytest.mark.parametrize(("compression", "unpack"), [("xz", "xz"), ("zst", "zstd"), ("gz", "gzip")])
def test_compressed(tiny_image: Path, compression: Compression, unpack: str, tmp_path: Path) -> None:
    made = write_form(tiny_image, tmp_path / f"x.{compression}", "raw", compression, run=run)
    assert form_of(made) == compression
    with (tmp_path / "disk.img").open("wb") as file:
        run([unpack, "-dc", made], stdout=file)
    run(["qemu-img", "compare", "-f", "raw", "-F", "raw", tiny_image, tmp_path / "disk.img"])


def test_a_block_map_is_enough_on_a_medium_full_of_garbage(tiny_image: Path, accelerator: str, tmp_path: Path) -> None:
    """What is not in the map keeps what was there: nothing that a file system relies on may be missing from it."""
    image = _copy(tiny_image, tmp_path / "disk.img")
    text = write_bmap(image, tmp_path / "disk.bmap", run=run).read_text()
    run(["cp", "--sparse=never", image, tmp_path / "full.img"])
    assert write_bmap(tmp_path / "full.img", tmp_path / "full.bmap", run=run).read_text() == text, "holes do not show"
    (tmp_path / "full.img").unlink()
    ranges = [(int(a), int(b or a)) for a, b in re.findall(r"> (\d+)(?:-(\d+))? </Range>", text)]
    mapped_bytes = sum(last - first + 1 for first, last in ranges) * 4096
    assert mapped_bytes < image.stat().st_size // 3
    medium = tmp_path / "medium.img"
    with image.open("rb") as source, medium.open("w+b") as target:
        target.truncate(image.stat().st_size)
        for entry in read_partitions(image):
            _spoil(target.fileno(), entry.offset_bytes, min(entry.size_bytes, 256 << 20))
        for first, last in ranges:
            source.seek(first * 4096)
            target.seek(first * 4096)
            target.write(source.read((last - first + 1) * 4096))
    for entry in read_partitions(medium):
        if entry.name in {"system-a", "system-b", "writable"}:
            run(["e2fsck", "-f", "-n", f"{medium}?offset={entry.offset_bytes}"])
    assert _boots(medium, accelerator, tmp_path)


def _spoil(handle: int, offset_bytes: int, size_bytes: int) -> None:
    garbage = b"\xa5" * (1 << 20)
    for start in range(0, size_bytes, len(garbage)):
        os.pwrite(handle, garbage, offset_bytes + start)
