"""Runs commands and tells what they took: wall time, and the memory of the whole process tree over time."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_S = 0.2


@dataclass(frozen=True)
class Sample:
    at_s: float
    """Seconds since the epoch."""
    memory_bytes: int
    """Proportional set size, summed over the command and all its descendants."""


@dataclass(frozen=True)
class Measured:
    duration_s: float
    samples: tuple[Sample, ...]
    output: str

    def peak_bytes(self, start_s: float = 0, end_s: float = float("inf")) -> int:
        return max((s.memory_bytes for s in self.samples if start_s <= s.at_s <= end_s), default=0)


def measured(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> Measured:
    """Runs `argv` to its end. Raises CalledProcessError, with the output printed, when it fails."""
    begin = time.monotonic()
    child = subprocess.Popen(
        argv,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    samples: list[Sample] = []
    ended = threading.Event()
    sampler = threading.Thread(target=_sample, args=(child.pid, samples, ended), daemon=True)
    sampler.start()
    output, _ = child.communicate()
    duration_s = time.monotonic() - begin
    ended.set()
    sampler.join()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, argv, output)
    return Measured(duration_s, tuple(samples), output)


def _sample(pid: int, samples: list[Sample], ended: threading.Event) -> None:
    while not ended.wait(_SAMPLE_S):
        samples.append(Sample(time.time(), sum(memory_bytes(member) for member in _family(pid))))


def _family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    family, fresh = [], [pid]
    while fresh:
        family += fresh
        fresh = [child for member in fresh for child in children.get(member, [])]
    return family


def memory_bytes(pid: int) -> int:
    """Proportional set size; 0 for a process that is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(sizes[0]) * 1024 if sizes else 0
