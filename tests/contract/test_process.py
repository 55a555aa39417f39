"""Real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coreimage.errors import HostError, InfrastructureError, ProcessError
from coreimage.host.process import run
from coreimage.host.sandbox import Sandbox
from tests.harness.ordinary_user import ROOT_DIR, as_ordinary_user

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
    deadline = time.monotonic() + 60
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


def test_a_timeout_is_one_also_when_the_child_ends_well() -> None:
    with pytest.raises(InfrastructureError, match="took longer"):
        run(["sh", "-c", "trap 'exit 0' TERM; sleep 60 & wait"], timeout_s=0.5)


@contextmanager
def parent_of(command: str, sandbox: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs `sh -c command`, once that has said `up`."""
    script = (
        "from coreimage.host.process import run\n"
        "from coreimage.host.sandbox import Sandbox\n"
        f"run(['sh', '-c', {command!r}], sandbox=Sandbox.{sandbox.name}, on_line=lambda line: print(line, flush=True))"
    )
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, cwd=ROOT_DIR, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout
        try:
            assert b"up\n" in iter(parent.stdout.readline, b"")
            yield parent
        finally:
            parent.kill()


@SANDBOXES
def test_an_interrupt_ends_the_tree(sandbox: Sandbox) -> None:
    mark = f"9{uuid.uuid4().int % 10**9}"
    with parent_of(f"sleep {mark} & echo up; sleep {mark}; true", sandbox) as parent:
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate(timeout=60)
        assert b"KeyboardInterrupt" in errors
        await_gone(mark)


def test_a_killed_parent_takes_its_child_along() -> None:
    mark = f"9{uuid.uuid4().int % 10**9}"
    with parent_of(f"echo up; exec sleep {mark}", Sandbox.NONE) as parent:
        assert running(mark)
        parent.kill()
        parent.wait()
        await_gone(mark)


def _refusal(argv: list[str]) -> str:
    ended = subprocess.run(argv, cwd=ROOT_DIR, capture_output=True, text=True, check=False, timeout=60)
    return ended.stdout + ended.stderr


def _in_sandbox(sandbox: Sandbox) -> list[str]:
    imports = "from coreimage.host.process import run; from coreimage.host.sandbox import Sandbox"
    return [sys.executable, "-c", f"{imports}; run(['true'], sandbox=Sandbox.{sandbox.name})"]


def test_a_user_without_subordinate_ids_is_told_so(tmp_path: Path) -> None:
    said = _refusal(as_ordinary_user(_in_sandbox(Sandbox.ROOT), tmp_path, subordinate_ids=False))
    assert "HostError: this user has no subordinate ids" in said
    assert "sudo usermod --add-subuids" in said


def test_a_host_without_user_namespaces_is_told_so(tmp_path: Path) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces\nexec setpriv --inh-caps=-all --ambient-caps=-all -- "$@"'
    within = ["unshare", "--user", "--map-current-user", "--keep-caps", "--", "sh", "-c", forbid, "sh"]
    said = _refusal(as_ordinary_user([*within, *_in_sandbox(Sandbox.PID_NAMESPACE)], tmp_path))
    assert "HostError: this host forbids user namespaces" in said


@pytest.mark.parametrize("sandbox", [Sandbox.PID_NAMESPACE, Sandbox.ROOT])
def test_nothing_outlives_a_killed_parent(sandbox: Sandbox) -> None:
    mark = f"9{uuid.uuid4().int % 10**9}"
    with parent_of(f"setsid sleep {mark} & echo up; sleep {mark}; true", sandbox) as parent:
        parent.kill()
        parent.wait()
        await_gone(mark)
