"""`flash` ended at each of its steps: nothing under the final name, nothing left behind, and the next run succeeds."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness.workshop import running_as_root, wait_until
from tests.integration.test_flash import FLASH, REPOSITORY, here, tree

__all__ = ["here", "tree"]

OLD = b"the old one"
STEPS = {
    "verifying": ("gpgv", []),
    "unpacking": ("tar", []),
    "making the filesystems": ("mke2fs", []),
    "setting their times, adding the login": ("debugfs", []),
    "formatting the boot partition": ("mkfs.vfat", []),
    "filling it": ("mcopy", []),
    "making GRUB": ("grub-mkimage", []),
    "making the block map": ("dumpe2fs", []),
    "converting": ("qemu-img", ["--format", "qcow2"]),
    "compressing": ("zstd", ["--compress", "zst"]),
}
"""The program that is running when the end comes, and the options with which `flash` starts it."""
_HANG = """#!/bin/sh
: > {reached}
exec sleep {seconds}
"""
# Dies on either side of the n-th move to a final name, as under `kill -9`.
_DYING = """
import os, signal, sys
from pathlib import Path
when, at, final = sys.argv[1], int(sys.argv[2]), sys.argv[3]
replace, moves = Path.replace, []
def dying(self, target):
    if Path(target).name.startswith(final) and Path(target).resolve().parent == Path.cwd():
        moves.append(target)
    mine = len(moves) == at and moves[-1] == target
    if mine and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = replace(self, target)
    if mine:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Path.replace = dying
from coreimage.cli.app import main
main(sys.argv[4:])
"""


@pytest.fixture
def words(tree: Path, here: Path) -> list[str]:
    (here / "x.img").write_bytes(OLD)
    (here / "tmp").mkdir()
    return ["--store", str(tree), *(word for word in FLASH if word != "--no-bmap"), "--force", "--output", "x.img"]


@contextmanager
def started(argv: list[str], here: Path, path: str = "") -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "TMPDIR": str(here / "tmp"),
        "PATH": os.pathsep.join(filter(None, [path, os.environ["PATH"]])),
    }
    with subprocess.Popen([sys.executable, *argv], env=environment, cwd=here) as process:
        try:
            yield process
        finally:
            process.kill()


def left(here: Path) -> list[str]:
    """All that is there but what was before."""
    names = [str(path.relative_to(here)) for path in here.rglob("*")]
    return sorted(name for name in names if name not in {"key.pub", "x.img", "tmp"})


def sleeping(seconds: int) -> bool:
    """Whether a process that hangs so long, which nobody else does, is alive in whatever namespace."""
    wanted = f"sleep\0{seconds}\0".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes() == wanted:
                return True
    return False


@pytest.mark.parametrize("step", STEPS)
def test_ended_while(step: str, words: list[str], here: Path, tmp_path: Path) -> None:
    program, options = STEPS[step]
    reached, bin_, seconds = tmp_path / "reached", tmp_path / "bin", 10**6 + secrets.randbelow(10**9)
    bin_.mkdir()
    (bin_ / program).write_text(_HANG.format(reached=reached, seconds=seconds))
    (bin_ / program).chmod(0o755)
    gentle = (signal.SIGINT, signal.SIGTERM)[list(STEPS).index(step) % 2]
    for number in (gentle, signal.SIGKILL):
        reached.unlink(missing_ok=True)
        with started(["-m", "coreimage.cli", *words, *options], here, str(bin_)) as process:
            wait_until(lambda: reached.exists() or process.poll() is not None, 120, f"{program} is reached")
            assert process.poll() is None, f"{program} is not reached"
            process.send_signal(number)
            assert process.wait(60) == (-9 if number == signal.SIGKILL else 130)
        assert (here / "x.img").read_bytes() == OLD
        wait_until(lambda: not sleeping(seconds), 30, "the end of its children")
        if number != signal.SIGKILL:
            assert left(here) == []
    with started(["-m", "coreimage.cli", *words, *options], here) as process:
        assert process.wait(120) == 0
    assert left(here) == ([] if "--format" in options else ["x.img.bmap"])
    with (here / "x.img").open("rb") as file:
        assert file.read(len(OLD)) != OLD


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_move_to_a_final_name(when: str, at: int, words: list[str], here: Path) -> None:
    """The block map takes its name first, the image last: a killed run leaves the old image or the whole new one."""
    with started(["-c", _DYING, when, str(at), "x.img", *words], here) as process:
        assert process.wait(120) == -9
    new = at == 2 and when == "after"
    assert ((here / "x.img").stat().st_size == 3_899_999_744) == new
    if not new:
        assert (here / "x.img").read_bytes() == OLD
    with started(["-m", "coreimage.cli", *words], here) as process:
        assert process.wait(120) == 0
    assert left(here) == ["x.img.bmap"]


_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 none "$2"
shift 2
"$@" || status=$?
find small -mindepth 1
exit ${status:-0}
"""


@pytest.mark.parametrize("options", [[], ["--format", "qcow2"], ["--compress", "zst"]], ids=["raw", "qcow2", "zst"])
def test_on_a_full_disk(options: list[str], words: list[str], here: Path) -> None:
    """The disk is full ever later: while unpacking, making filesystems, adding the login, converting."""
    (here / "small").mkdir()
    unshare = ["unshare", "--mount", *([] if running_as_root() else ["--map-root-user"]), "sh", "-eu", "-c"]
    command = [sys.executable, "-m", "coreimage.cli", *words, *options, "--output", "small/y.img"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(here / "small")}
    for size in ("64k", "1m", "4m", "16m", "24m", "34m", "300m"):
        argv = [*unshare, _ON_A_SMALL_DISK, "sh", size, "small", *command]
        done = subprocess.run(argv, env=environment, cwd=here, capture_output=True, text=True, check=False)
        there = done.stdout.splitlines()
        if done.returncode == 0:
            break
        assert done.returncode == 1, done.stderr
        assert "free some space" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert [line for line in there if line.startswith("small/")] == [], size
    assert size not in {"64k", "1m", "4m"}
    assert done.returncode == 0
    assert "small/y.img" in there
    assert (here / "x.img").read_bytes() == OLD
