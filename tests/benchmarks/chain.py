"""The whole chain: cold against bare mmdebstrap, unchanged against cold, and what each stage takes."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from coreimage.config import load_project
from tests.benchmarks.measure import Measured, measured

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "deployments/debian-core.yaml"
CHANNEL = "debian-core/13/edge"
BUILD = [sys.executable, "-m", "coreimage.cli", "build", CHANNEL, "--output", "x86.img", "--force"]


@dataclass(frozen=True)
class Stage:
    name: str
    duration_s: float
    peak_bytes: int


@dataclass(frozen=True)
class ChainFigures:
    bare: Measured
    cold: Measured
    unchanged: Measured
    unchanged_with_server: Measured
    empty_flow: Measured
    empty_flow_with_server: Measured
    stages: tuple[Stage, ...]

    def seconds_of(self, *names: str) -> float:
        return sum(stage.duration_s for stage in self.stages if stage.name in names)


def measure_chain(folder: Path) -> ChainFigures:
    """Everything in one run, in `folder`; the bare mmdebstrap comes first and so warms any proxy for both."""
    bare = bare_mmdebstrap(folder)
    cold = measured(BUILD, cwd=folder)
    stages = tuple(_stages(folder, cold))
    unchanged = measured(BUILD, cwd=folder)
    empty = _empty_flow(folder)
    with _prefect_server(folder) as environment:
        measured(BUILD, cwd=folder, env=environment)
        unchanged_with_server = measured(BUILD, cwd=folder, env=environment)
        empty_with_server = _empty_flow(folder, environment)
    return ChainFigures(bare, cold, unchanged, unchanged_with_server, empty, empty_with_server, stages)


def bare_mmdebstrap(folder: Path) -> Measured:
    """mmdebstrap as one would call it by hand, with the packages of rootfs and device in one chroot."""
    config = load_project(PROJECT).config
    series = config.series[config.channels[CHANNEL].series]
    packages = [*series.rootfs.packages, *config.devices["generic_amd64"].packages, "initramfs-tools"]
    mode = "root" if os.geteuid() == 0 else "unshare"
    options = [f"--mode={mode}", "--variant=essential", f"--include={','.join(packages)}"]
    return measured(["mmdebstrap", *options, series.codename, str(folder / "bare.tar")], cwd=folder)


def _stages(folder: Path, cold: Measured) -> Iterator[Stage]:
    database = sqlite3.connect(f"file:{folder}/var/prefect/prefect.db?mode=ro", uri=True)
    rows = database.execute("select name, start_time, end_time from task_run order by start_time")
    for name, start, end in rows:
        begin, finish = _seconds(start), _seconds(end)
        yield Stage(name.rpartition("-")[0] or name, finish - begin, cold.peak_bytes(begin, finish))


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).replace(tzinfo=UTC).timestamp()


_EMPTY_FLOW = """
from pathlib import Path
from coreimage.cli.prefect_server import prefect_api
with prefect_api(Path("var/prefect")) as url:
    from prefect import flow
    from flows.reporting import report_to
    with report_to(url):
        flow(lambda: None, name="empty")()
"""


def _empty_flow(folder: Path, environment: dict[str, str] | None = None) -> Measured:
    """Prefect's own share: a flow that does nothing, started as ours is."""
    settings = {"PYTHONPATH": str(ROOT), **(environment or {})}
    return measured([sys.executable, "-c", _EMPTY_FLOW], cwd=folder, env=settings)


@contextmanager
def _prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    from coreimage.cli.prefect_server import server  # noqa: PLC0415

    with server(folder / "server", {}) as url:
        yield {"PREFECT_API_URL": url}
