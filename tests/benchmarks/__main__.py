"""`make benchmark`: measures all in one run and rewrites docs/performance.md."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.assembly import AssemblyFigures, measure_assembly
from tests.benchmarks.chain import ChainFigures, measure_chain

PAGE = Path(__file__).parents[2] / "docs/performance.md"

_PAGE = """# Performance

Measured by `make benchmark`, which rewrites this page: all figures of one run, on one machine, as ratios against a
peer or a limit. Seconds are of that machine ({machine}, {date}); only the ratios carry over.

## The chain

{chain}

## Each stage of a cold run

Memory is the proportional set size of the command and everything it started, Prefect and its server included.

{stages}

## Assembly

Of the payloads of the chain above, from files to a disk image. The bare sum is `xz -dc -T2`, `tar -x` and `mke2fs -d`
of the same contents.

{assembly}
"""


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="coreimage-benchmark-"))
    try:
        chain = measure_chain(folder)
        pool = folder / "var/store/system-image/pool"
        (folder / "assembly").mkdir()
        parts = next(pool.glob("ubuntu-*.tar.xz")), next(pool.glob("device-*.tar.xz"))
        PAGE.write_text(page(chain, measure_assembly(parts, folder / "assembly")))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(PAGE.read_text())


def page(chain: ChainFigures, assembly: AssemblyFigures) -> str:
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return _PAGE.format(
        machine=machine,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        chain=chain_table(chain),
        stages=stage_table(chain),
        assembly=assembly_table(assembly),
    )


def chain_table(chain: ChainFigures) -> str:
    bare_s, cold_s = chain.bare.duration_s, chain.cold.duration_s
    builds_s = chain.seconds_of("build-rootfs", "build-device")
    boots_s = chain.seconds_of("boot-test")
    rest_s = cold_s - builds_s - boots_s
    rows = [
        ("cold chain / bare mmdebstrap of the same packages", cold_s / bare_s, f"{cold_s:.0f} s / {bare_s:.0f} s", ""),
        ("… without the boot tests", (cold_s - boots_s) / bare_s, f"{cold_s - boots_s:.0f} s / {bare_s:.0f} s", ""),
        ("all but mmdebstrap and boots / mmdebstrap", rest_s / builds_s, f"{rest_s:.0f} s / {builds_s:.0f} s", "≤ 1"),
        (
            "unchanged chain / cold chain",
            chain.unchanged.duration_s / cold_s,
            f"{chain.unchanged.duration_s:.1f} s",
            "",
        ),
        (
            "unchanged, embedded Prefect / 20 s",
            chain.unchanged.duration_s / 20,
            f"{chain.unchanged.duration_s:.1f} s",
            "≤ 1",
        ),
        _with_share(
            "its share of Prefect alone: an empty flow", chain.empty_flow.duration_s, chain.unchanged.duration_s
        ),
        (
            "unchanged, running Prefect server / 6 s",
            chain.unchanged_with_server.duration_s / 6,
            f"{chain.unchanged_with_server.duration_s:.1f} s",
            "≤ 1",
        ),
        _with_share(
            "its share of Prefect alone: an empty flow",
            chain.empty_flow_with_server.duration_s,
            chain.unchanged_with_server.duration_s,
        ),
    ]
    return table(("figure", "ratio", "measured", "to reach"), [(a, f"{b:.2f}", c, d) for a, b, c, d in rows])


def assembly_table(figures: AssemblyFigures) -> str:
    ours_s = figures.ours.duration_s

    def row(name: str, peer_s: float, reach: str) -> tuple[str, ...]:
        return name, f"{ours_s / peer_s:.2f}", f"{ours_s:.1f} s / {peer_s:.1f} s", reach

    loop = row("assembly / with loop devices, as root", figures.loop.duration_s, "≤ 0.7") if figures.loop else None
    rows = [
        row("assembly / the bare sum", figures.bare.duration_s, "≤ 1.3"),
        loop or ("assembly / with loop devices, as root", "", "no loop devices with partitions here", "≤ 0.7"),
        row("assembly / `cp --sparse=always` of the image", figures.copy.duration_s, ""),
        ("peak memory / 200 MB", f"{figures.peak_bytes / 200e6:.2f}", f"{figures.peak_bytes / 1e6:.0f} MB", "≤ 1"),
    ]
    return table(("figure", "ratio", "measured", "to reach"), rows)


def stage_table(chain: ChainFigures) -> str:
    rows = [(stage.name, f"{stage.duration_s:.1f}", f"{stage.peak_bytes / 1e6:.0f}") for stage in chain.stages]
    return table(("stage", "seconds", "peak MB"), rows)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_share(name: str, part_s: float, whole_s: float) -> tuple[str, float, str, str]:
    return name, part_s / whole_s, f"{part_s:.1f} s", ""


if __name__ == "__main__":
    main()
