"""A folder in which `coreimage` is run as its users run it: as a command, with a store and keys of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coreimage.storage import Store, open_store
from tests.harness.ordinary_user import as_ordinary_user

_GONE_WITHIN_S = 30.0


@dataclass(frozen=True)
class Workshop:
    """`ordinary` runs the command without any privilege even where the tests run as root."""

    folder: Path
    ordinary: bool = True

    def coreimage(self, *words: str, accept: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end. Raises AssertionError, with all it said, for a status that is not accepted."""
        done = subprocess.run(self._argv(*words), cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode in accept, (
            f"coreimage {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def result(self, *words: str) -> dict[str, Any]:
        """The JSON document of a command that succeeds."""
        document = json.loads(self.coreimage("--json", *words).stdout)
        assert isinstance(document, dict)
        return document

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A command under way; its output goes to `started.log`. It is killed when the block is left."""
        with (
            (self.folder / "started.log").open("w") as log,
            subprocess.Popen(self._argv(*words), cwd=self.folder, stdout=log, stderr=log, text=True) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / "var/store"))

    def said(self) -> str:
        return (self.folder / "started.log").read_text()

    def _argv(self, *words: str) -> list[str]:
        argv = [sys.executable, "-m", "coreimage.cli", *words]
        return as_ordinary_user(argv, self.folder) if self.ordinary else argv


def family(pid: int) -> dict[int, str]:
    """The process and all that descend from it: pid to command name."""
    parents: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if state != "Z":
            names[int(folder.name)] = head.partition("(")[2]
            parents.setdefault(int(parent), []).append(int(folder.name))
    members, fresh = dict[int, str](), [pid]
    while fresh:
        members.update({member: names[member] for member in fresh if member in names})
        fresh = [child for member in fresh for child in parents.get(member, [])]
    return members


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Looks again until it holds. Raises AssertionError, naming `what`, when the time is over."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)


def kill_and_see_all_gone(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the command alone; whatever it had started must go with it."""
    members = family(process.pid)
    started = {pid: _start_time(pid) for pid in members}
    process.kill()
    process.wait()

    def left() -> list[str]:
        return [f"{name} ({pid})" for pid, name in members.items() if started[pid] and _start_time(pid) == started[pid]]

    wait_until(lambda: not left(), _GONE_WITHIN_S, f"the end of {members}")


def _start_time(pid: int) -> str:
    """Tells a process from a later one of the same number; empty for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def project(name: str) -> str:
    return str(Path(__file__).parents[1] / "projects" / name)


def running_as_root() -> bool:
    return os.geteuid() == 0
