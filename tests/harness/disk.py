"""Looks into the file systems of a disk image, without mounting them."""

from __future__ import annotations

from pathlib import Path

from coreimage.disk_image.gpt import read_table
from coreimage.host.process import run


def filesystem(image: Path, partition: str) -> str:
    """As the tools of e2fsprogs take it."""
    return f"{image}?offset={next(entry.offset_bytes for entry in read_table(image) if entry.name == partition)}"


def debugfs(image: Path, partition: str, command: str) -> str:
    return run(["debugfs", "-R", command, filesystem(image, partition)]).output
