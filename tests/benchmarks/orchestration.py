"""What orchestration costs: a step's overhead, several workers against one, and a server with 10,000 runs.

On a real installation of several machines (tests/harness/fleet.py): PostgreSQL, Redis, Prefect's server and S3.
Needs root.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coreimage.model import Architecture
from tests.benchmarks.measure import memory_bytes
from tests.benchmarks.page import Row, ratios, table
from tests.benchmarks.place import ROOT, Place
from tests.harness.fleet import Fleet, postgres_programs
from tests.harness.fleet_product import fleet_product
from tests.harness.tools import made_shared_tools
from tests.harness.workshop import family, wait_until

RUNS = 10_000
STEPS = 50
DEVICES: Mapping[str, Architecture] = {f"board{number}_amd64": "amd64" for number in range(4)}
CHANNEL = "tiny/1/edge"
BUILD = "build-channel/tiny:1:edge"
_WITHIN_S = 3600.0

_PAGE = """# Orchestration

Prefect's server on PostgreSQL and Redis, SeaweedFS, and workers in network namespaces with file systems of their own,
all on one machine: its cores are what they share.

## A step

{steps} steps that do nothing but store {steps} results, in one run whose results are in S3.

{step_rows}

## Workers

A refresh of a channel with {devices} devices of a small product, all steps done anew: built by workers that take one
step at a time, signed by another.

{worker_rows}

## {runs:,} runs

One run of that channel, with its steps, log lines and reports, copied {runs:,} times in the database.

{history_rows}

{history}
"""

_STEPS = """
import json, sys, time
from prefect import flow, task
from prefect.cache_policies import INPUTS
from coreimage.model import ArtifactRef, TEXT
from coreimage.storage import put_blob_bytes
from tasks.factory import artifact_task
from tasks.site import Site

COUNT = int(sys.argv[1])

@artifact_task(code=["coreimage.errors"])
def ours(number: int, *, site: Site) -> ArtifactRef:
    return put_blob_bytes(site.store(), b"%d" % number, TEXT)

@task(cache_policy=INPUTS, persist_result=True, result_serializer="json")
def plain(number: int) -> int:
    return number

@flow
def of_ours() -> None:
    for number in range(COUNT):
        ours(number, site=Site.here())

@flow
def of_plain() -> None:
    for number in range(COUNT):
        plain(number)

def taken(function) -> float:
    start_s = time.monotonic()
    function()
    return (time.monotonic() - start_s) / COUNT

site = Site.here()
bare = taken(lambda: [ours.fn(-1 - number, site=site) for number in range(COUNT)])
print(json.dumps({"bare": bare, "plain": taken(of_plain), "plain again": taken(of_plain),
                  "ours": taken(of_ours), "ours again": taken(of_ours)}))
"""

_COPIED = {
    "flow_run_state": ("id", "flow_run_id"),
    "flow_run": ("id", "state_id"),
    "task_run_state": ("id", "task_run_id"),
    "task_run": ("id", "flow_run_id", "state_id"),
    "log": ("id", "flow_run_id", "task_run_id"),
    "artifact": ("id", "flow_run_id", "task_run_id"),
}
"""Tables of Prefect's database, and their columns that tell runs apart."""
_OF_RUN = {
    "flow_run_state": "flow_run_id = '{run}'",
    "flow_run": "id = '{run}'",
    "task_run_state": "task_run_id IN (SELECT id FROM task_run WHERE flow_run_id = '{run}')",
}
"""Which of their rows are a run's, where it is not by `flow_run_id` that they say so."""


def section(place: Place) -> str:
    folder = place.folder("orchestration")
    with fleet_product(folder, made_shared_tools(folder), channels=[CHANNEL], devices=DEVICES) as product:
        made = product.fleet
        steps = _steps(made, folder)
        workers, run = _workers(made, product.keys)
        rows, history = _history(made, run)
    return _PAGE.format(
        steps=STEPS,
        devices=len(DEVICES),
        runs=RUNS,
        step_rows=ratios(_step_rows(steps)),
        worker_rows=ratios(workers),
        history_rows=ratios(rows),
        history=history,
    )


def _step_rows(seconds: Mapping[str, float]) -> list[Row]:
    def row(figure: str, one: str, other: str, reach: str = "") -> Row:
        said = f"{seconds[one] * 1e3:.0f} ms / {seconds[other] * 1e3:.0f} ms"
        return Row(figure, seconds[one] / seconds[other], said, reach)

    return [
        row("a new step / one of Prefect's own, whose result is cached too", "ours", "plain"),
        row("a remembered step / one of Prefect's own", "ours again", "plain again"),
        row("a new step / what it does, without Prefect", "ours", "bare"),
    ]


def _steps(made: Fleet, folder: Path) -> dict[str, float]:
    script = folder / "steps.py"
    script.write_text(_STEPS)
    environment = {
        **made.environment(),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": "artifact-results/main",
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }
    argv = [sys.executable, str(script), str(STEPS)]
    done = subprocess.run(argv, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _workers(made: Fleet, keys: Path) -> tuple[list[Row], str]:
    """The rows, and a run to make a history of."""
    made.add("signing", keys, limit=1)
    made.add("build", limit=1)
    made.completed(made.start(BUILD), _WITHIN_S)
    one = _refresh_s(made)
    for _ in range(2):
        made.add("build", limit=1)
    _refresh_s(made)  # the new machines unpack their tools
    three = _refresh_s(made)
    said = f"{three[0]:.0f} s / {one[0]:.0f} s"
    cores = f"three workers that build / one, on {os.cpu_count()} cores"
    return [Row(cores, three[0] / one[0], said)], three[1]


def _refresh_s(made: Fleet) -> tuple[float, str]:
    run = made.start(BUILD, refresh=True)
    return float(made.completed(run, _WITHIN_S)["total_run_time"]), run


@dataclass(frozen=True)
class Held:
    """`query_s` is what a page of the UI's list of runs takes."""

    database_bytes: int
    server_bytes: int
    query_s: float
    rows: int


def _history(made: Fleet, run: str) -> tuple[list[Row], str]:
    few = _held(made)
    _copy(made, run)
    many = _held(made)
    start_s = time.monotonic()
    _forget(made)
    forgotten_s = time.monotonic() - start_s
    wait_until(lambda: _count(made, "log") == 0, 600, "the end of all log lines")
    cleaned_s = time.monotonic() - start_s
    _sql(made, "VACUUM FULL")
    left = _held(made)
    rows = [
        Row("the list of runs, with all of them / with a few", many.query_s / few.query_s, _ms(many, few)),
        Row(
            "rows left after forget-runs / rows before",
            left.rows / many.rows,
            f"{left.rows:,} / {many.rows:,}",
            "≤ 0.01",
        ),
        Row(
            "the database after forget-runs and VACUUM FULL / before",
            left.database_bytes / many.database_bytes,
            f"{left.database_bytes / 1e6:.0f} MB / {many.database_bytes / 1e6:.0f} MB",
        ),
    ]
    figures = [(when, *_cells(held)) for when, held in (("a few runs", few), ("all", many), ("forgotten", left))]
    shown = table(("with", "database", "server's memory", "list of runs", "rows"), figures)
    per_run = (many.database_bytes - few.database_bytes) / RUNS
    said = (
        f"A run takes {per_run / 1e3:.0f} kB. Forgetting took {forgotten_s:.0f} s, "
        f"{forgotten_s / RUNS * 1e3:.1f} ms a run; the last log line was gone {cleaned_s - forgotten_s:.0f} s later. "
        "Events, which the server itself forgets after a week, are not counted."
    )
    return rows, f"{shown}\n\n{said}"


def _cells(held: Held) -> tuple[str, ...]:
    megabytes = (held.database_bytes, held.server_bytes)
    return (*(f"{size / 1e6:.0f} MB" for size in megabytes), f"{held.query_s * 1e3:.0f} ms", f"{held.rows:,}")


def _ms(one: Held, other: Held) -> str:
    return f"{one.query_s * 1e3:.0f} ms / {other.query_s * 1e3:.0f} ms"


def _held(made: Fleet) -> Held:
    _sql(made, "ANALYZE")
    return Held(
        database_bytes=int(_sql(made, "SELECT pg_database_size(current_database())")),
        server_bytes=sum(memory_bytes(pid) for pid in _server(made)),
        query_s=_query_s(made),
        rows=sum(_count(made, name) for name in _COPIED),
    )


def _server(made: Fleet) -> list[int]:
    port = made.url.rpartition(":")[2].partition("/")[0].encode()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family(os.getpid())}
    return [pid for pid, command in commands.items() if b"prefect" in command and port in command]


def _query_s(made: Fleet) -> float:
    durations = []
    for _ in range(7):
        start_s = time.monotonic()
        made.api("/flow_runs/filter", {"limit": 50, "sort": "EXPECTED_START_TIME_DESC"})
        made.api("/flow_runs/count", {})
        durations.append(time.monotonic() - start_s)
    return statistics.median(durations)


def _count(made: Fleet, name: str) -> int:
    return int(_sql(made, f"SELECT count(*) FROM {name}"))  # noqa: S608


def _copy(made: Fleet, run: str) -> None:
    """Foreign keys are the same as the run's, so they need not be checked."""
    copies = []
    for name, identifiers in _COPIED.items():
        own = _OF_RUN.get(name, "flow_run_id = '{run}'").format(run=run)
        anew = ", ".join(f"'{column}', md5(t.{column}::text || n)::uuid" for column in identifiers)
        alone = ", 'idempotency_key', NULL" if name == "flow_run" else ""
        record = f"jsonb_populate_record(NULL::{name}, to_jsonb(t) || jsonb_build_object({anew}{alone}))"
        source = f"FROM {name} t, generate_series(1, {RUNS}) n WHERE {own}"
        copies.append(f"INSERT INTO {name} SELECT ({record}).* {source};")
    _sql(made, "SET session_replication_role = replica; " + " ".join(copies))


def _forget(made: Fleet) -> None:
    code = "from flows.upkeep import forget_old_runs; forget_old_runs('tiny', days=0)"
    environment = {**made.environment(), "PREFECT_LOGGING_LEVEL": "ERROR", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=made.folder, check=True)


def _sql(made: Fleet, command: str) -> str:
    """What it answers, one value."""
    argv = [str(postgres_programs() / "psql"), made.database_url, "-qAt", "-v", "ON_ERROR_STOP=1", "-c", command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
