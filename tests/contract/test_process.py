"""Real processes."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from coreimage.errors import HostError, InfrastructureError, ProcessError
from coreimage.process import Sandbox, run

SANDBOXES = pytest.mark.parametrize("sandbox", list(Sandbox))


def running(mark: str) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found


def await_gone(mark: str) -> None:
    deadline = time.monotonic() + 10
    while left := running(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@SANDBOXES
def test_output_lines_and_input(sandbox: Sandbox) -> None:
    seen: list[str] = []
    done = run(["sh", "-c", "cat; echo err >&2"], sandbox=sandbox, stdin=b"a\nb\n", on_line=seen.append)
    assert done.output == "a\nb\nerr\n"
    assert seen == ["a", "b", "err"]


def test_status_and_last_lines() -> None:
    with pytest.raises(ProcessError, match="status 3") as caught:
        run(["sh", "-c", "seq 100; exit 3"])
    assert caught.value.last_lines[-1] == "100"
    assert run(["sh", "-c", "exit 3"], accept=(0, 3)).status == 3


@SANDBOXES
def test_a_missing_program(sandbox: Sandbox) -> None:
    with pytest.raises(HostError, match="no-such-program is not installed"):
        run(["no-such-program"], sandbox=sandbox)


def test_redirected_output_beside_much_on_stderr(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = run(["sh", "-c", "seq 50000 >&2; seq 50000"], stdout=file)
    assert (tmp_path / "out").read_bytes().endswith(b"50000\n")
    assert done.output.endswith("50000\n")


@SANDBOXES
def test_timeouts_end_the_tree(sandbox: Sandbox) -> None:
    mark = f"9{uuid.uuid4().int % 10**9}"
    with pytest.raises(InfrastructureError, match="took longer"):
        run(["sh", "-c", f"sleep {mark} & sleep {mark}; true"], sandbox=sandbox, timeout_s=0.5)
    await_gone(mark)


@pytest.mark.parametrize("sandbox", [Sandbox.FAMILY, Sandbox.ROOT])
def test_nothing_outlives_a_killed_parent(sandbox: Sandbox) -> None:
    mark = f"9{uuid.uuid4().int % 10**9}"
    script = (
        "from coreimage.process import Sandbox, run\n"
        f"run(['sh', '-c', 'setsid sleep {mark} & echo up; sleep {mark}; true'], sandbox=Sandbox.{sandbox.name},"
        " on_line=lambda line: print(line, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        try:
            assert b"up\n" in iter(parent.stdout.readline, b"")
        finally:
            parent.kill()
    await_gone(mark)
