"""The supervisor of `coreimage up`, with small services: order, readiness, restarts, and an end that leaves nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coreimage.errors import HostError
from coreimage.host.children import Child
from coreimage.host.process import spawn
from coreimage.services.background import run_in_background
from tests.harness.workshop import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
# `base` becomes ready some time after its start; `top` cannot start before that. Both tell when they end.
SCRIPT = """
import sys
from pathlib import Path
from coreimage.services.service import Service
from coreimage.services.supervisor import supervising

folder = Path(sys.argv[1])
LIVE = (
    "trap 'echo {name} ends >>events; exit' TERM; echo $$ >{name}.pid; touch {name}.ready; "
    "while :; do sleep 0.05; done"
)

def service(name, before):
    script = f"cd {folder}; echo {name} starts; {before}; " + LIVE.format(name=name)
    return Service(name, ("sh", "-c", script), {}, (folder / f"{name}.ready").exists)

with supervising(folder) as supervisor:
    supervisor.start(service("base", "sleep 0.5"))
    supervisor.start(service("top", "test -e base.ready || exit 1"))
    print("ready", flush=True)
    supervisor.keep_running()
"""


@contextmanager
def supervised(folder: Path) -> Iterator[Child]:
    environment = {"PYTHONPATH": str(REPOSITORY)}
    with spawn([sys.executable, "-c", SCRIPT, str(folder)], env=environment) as child:
        lines = child.lines()
        assert "ready" in lines
        yield child


def pid_of(folder: Path, name: str) -> int:
    return int((folder / f"{name}.pid").read_text() or 0)


def runs(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


def test_each_waits_for_the_one_before_and_all_end_in_reverse(tmp_path: Path) -> None:
    with supervised(tmp_path) as supervisor:
        pids = [pid_of(tmp_path, name) for name in ("base", "top")]
        assert all(map(runs, pids))
        assert (tmp_path / "top.log").read_text() == "top starts\n"
        os.kill(supervisor.pid, signal.SIGTERM)
        assert supervisor.wait(20) == 0
    assert (tmp_path / "events").read_text() == "top ends\nbase ends\n"
    assert not any(map(runs, pids))


def test_one_that_dies_is_started_again_and_the_others_go_on(tmp_path: Path) -> None:
    with supervised(tmp_path):
        base, top = pid_of(tmp_path, "base"), pid_of(tmp_path, "top")
        os.kill(base, signal.SIGKILL)
        wait_until(lambda: runs(pid_of(tmp_path, "base")) and pid_of(tmp_path, "base") != base, 60, "another base")
        assert pid_of(tmp_path, "top") == top
        assert runs(top)
        assert (tmp_path / "base.log").read_text() == "base starts\n" * 2


def test_no_service_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    with supervised(tmp_path) as supervisor:
        pids = [pid_of(tmp_path, name) for name in ("base", "top")]
        os.kill(supervisor.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(runs, pids)), 20, "the end of both services")


def test_what_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    broken = SCRIPT.replace("test -e base.ready ||", "echo no space left;")
    with spawn([sys.executable, "-c", broken, str(tmp_path)], env={"PYTHONPATH": str(REPOSITORY)}) as supervisor:
        said = list(supervisor.lines())
        assert supervisor.wait(20) == 1
    assert "top does not start" in "\n".join(said)
    assert "  | no space left" in said
    assert (tmp_path / "events").read_text() == "base ends\n"


def test_the_background_says_that_it_is_ready_or_why_not(tmp_path: Path) -> None:
    log = tmp_path / "log/out"

    def fail(_on_ready: object) -> None:
        os.write(1, b"before\n")
        raise HostError("no bucket")

    with pytest.raises(HostError, match="no bucket"):
        run_in_background(fail, log)
    assert log.read_text() == "before\n"

    def crash(_on_ready: object) -> None:
        raise ValueError("three")

    with pytest.raises(HostError, match="ValueError: three"):
        run_in_background(crash, log)
