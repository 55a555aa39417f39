"""docs/reproduce.md, walked through: its commands, in its order, in the store of a real build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coreimage.disk_image.table import read_partitions
from coreimage.host.process import run
from tests.chain.conftest import Chain
from tests.harness.ordinary_user import ROOT_DIR, as_ordinary_user

pytestmark = pytest.mark.timeout(1800)


def commands() -> str:
    page = (ROOT_DIR / "docs/reproduce.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    return "".join(blocks)


def test_the_page_works(chain: Chain) -> None:
    folder = chain.workshop.folder
    own = folder / "bin/coreimage"
    own.parent.mkdir(exist_ok=True)
    own.write_text(f'#!/bin/sh\nexec {sys.executable} -m coreimage.cli "$@"\n')
    own.chmod(0o755)
    script = f"set -eux; PATH={own.parent}:$PATH\n{commands()}"
    argv = ["sh", "-c", script]
    done = subprocess.run(
        as_ordinary_user(argv, folder) if chain.workshop.ordinary else argv,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT_DIR)},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "mine.img boots under bios" in done.stdout
    assert _file(folder / "mine.img", "system-a", "/etc/mine.conf").endswith("mine\n")
    assert "File not found" in _file(folder / "theirs.img", "system-a", "/etc/mine.conf")


def _file(image: Path, partition: str, path: str) -> str:
    entry = next(entry for entry in read_partitions(image) if entry.name == partition)
    return run(["debugfs", "-R", f"cat {path}", f"{image}?offset={entry.offset_bytes}"]).output
