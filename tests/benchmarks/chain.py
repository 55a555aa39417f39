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

from coreimage.project.loading import load_project
from tests.benchmarks.measure import Measured, measured
from tests.benchmarks.page import Row, ratios, table
from tests.benchmarks.place import BUILD, CHANNEL, PROJECT, ROOT, Place

_PAGE = """# The chain

{chain}

## Each stage of a cold run

Memory is the proportional set size of the command and everything it started, Prefect and its server included.

{stages}
"""


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
        """Raises ValueError for a stage that did not run."""
        durations_s = {name: [stage.duration_s for stage in self.stages if stage.name == name] for name in names}
        if not all(durations_s.values()):
            raise ValueError(f"of {', '.join(names)} ran only {', '.join(stage.name for stage in self.stages)}")
        return sum(map(sum, durations_s.values()))


def section(place: Place) -> str:
    figures = measure_chain(place.folder("chain"))
    return _PAGE.format(chain=ratios(_rows(figures)), stages=_stage_table(figures))


def _rows(chain: ChainFigures) -> list[Row]:
    bare_s, cold_s = chain.bare.duration_s, chain.cold.duration_s
    builds_s = chain.seconds_of("build-rootfs", "build-device")
    unbooted_s = cold_s - chain.seconds_of("boot-test")
    inputs_s = chain.seconds_of("probe-archives", "plan-tools", "build-tools", "plan-packages")
    rest_s = unbooted_s - builds_s - inputs_s
    unchanged_s, served_s = chain.unchanged.duration_s, chain.unchanged_with_server.duration_s
    empty_s, empty_served_s = chain.empty_flow.duration_s, chain.empty_flow_with_server.duration_s
    share = "its share of Prefect alone: an empty flow"

    def row(figure: str, ours_s: float, peer_s: float, reach: str = "") -> Row:
        return Row(figure, ours_s / peer_s, f"{ours_s:.1f} s / {peer_s:.1f} s", reach)

    return [
        row("cold chain / bare mmdebstrap of the same packages", cold_s, bare_s),
        row("… without the boot tests", unbooted_s, bare_s),
        row("rootfs and device chroots, packed / bare mmdebstrap", builds_s, bare_s),
        row("publish, import, sign, assemble and Prefect / bare mmdebstrap", rest_s, bare_s, "≤ 1"),
        row("planning, and the tools tree, which a machine makes once / bare mmdebstrap", inputs_s, bare_s),
        row("unchanged chain / cold chain", unchanged_s, cold_s),
        row("unchanged, embedded Prefect / 20 s", unchanged_s, 20, "≤ 1"),
        row(share, empty_s, unchanged_s),
        row("unchanged, running Prefect server / 6 s", served_s, 6, "≤ 1"),
        row(share, empty_served_s, served_s),
    ]


def _stage_table(chain: ChainFigures) -> str:
    rows = [(stage.name, f"{stage.duration_s:.1f}", f"{stage.peak_bytes / 1e6:.0f}") for stage in chain.stages]
    return table(("stage", "seconds", "peak MB"), rows)


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
    rows = database.execute("select task_key, start_time, end_time from task_run order by start_time")
    for key, start, end in rows:
        begin, finish = _seconds(start), _seconds(end)
        yield Stage(key.rpartition("-")[0].replace("_", "-"), finish - begin, cold.peak_bytes(begin, finish))


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).replace(tzinfo=UTC).timestamp()


_EMPTY_FLOW = """
from pathlib import Path
from coreimage.services.prefect_server import prefect_api
with prefect_api(Path("var/prefect")) as url:
    from prefect import flow
    from flows.report.runs import report_to
    with report_to(url):
        flow(lambda: None, name="empty")()
"""


def _empty_flow(folder: Path, environment: dict[str, str] | None = None) -> Measured:
    """Prefect's own share: a flow that does nothing, started as ours is."""
    settings = {"PYTHONPATH": str(ROOT), **(environment or {})}
    return measured([sys.executable, "-c", _EMPTY_FLOW], cwd=folder, env=settings)


@contextmanager
def _prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    from coreimage.services.prefect_server import prefect_server  # noqa: PLC0415

    with prefect_server(folder / "server", {}) as url:
        yield {"PREFECT_API_URL": url}
