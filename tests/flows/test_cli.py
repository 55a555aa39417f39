"""The command as its users have it: processes, exit statuses, what is left after a kill."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coreimage.process import Completed, run, spawn

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("prefect", "boto3", "pydantic", "requests", "rich")


def coreimage(words: Sequence[str], cwd: Path, accept: Sequence[int] = (0,)) -> Completed:
    return run([sys.executable, "-m", "coreimage.cli", *words], env=environment(), cwd=cwd, accept=accept)


def environment() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.mark.parametrize("words", [["--help"], ["build", "--help"], ["flash", "core", "--help"], ["keys", "--help"]])
def test_help_is_light_and_has_an_example(words: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom coreimage.cli.app import run\nstatus = run(sys.argv[1:])\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "sys.exit(status or bool(heavy))"
    )
    shown = run([sys.executable, "-c", script, *words], env=environment(), cwd=tmp_path).output
    assert "Example:\n" in shown


@pytest.mark.parametrize(
    ("words", "status", "hint"),
    [
        (["nothing"], 2, "No such command"),
        (["build", "debian-core/13/egde"], 1, "did you mean 'debian-core/13/edge'?"),
        (["--project", "absent.yaml", "build", "x"], 2, "--project FILE"),
        (["flash", "core", "13", "--channel", "edge", "--output", "x.img"], 1, "coreimage build CHANNEL"),
        (["flash", "core", "13", "--channel", "edge", "--output", "x.img", "--server", "."], 2, "--keyring"),
        (["flash", "core", "13", "--channel", "edge", "--output", "no/x.img"], 2, "make the folder"),
        (["keys", "show"], 1, "coreimage keys init"),
    ],
)
def test_errors_say_what_to_do(words: list[str], status: int, hint: str, tmp_path: Path) -> None:
    ended = coreimage(words, tmp_path, accept=(status,))
    assert hint in ended.output
    assert "Traceback" not in ended.output


def test_an_error_is_a_document_with_json(tmp_path: Path) -> None:
    ended = coreimage(["--json", "keys", "show"], tmp_path, accept=(1,))
    found = json.loads(ended.output.splitlines()[-1])
    assert found["error"]["kind"] == "HostError"


EMBEDDED = """
import sys
from pathlib import Path
from coreimage import logs
from coreimage.cli.prefect_server import prefect_api
logs.show(30)
with prefect_api(Path("var/prefect")) as url:
    print(url, flush=True)
    from prefect import flow
    @flow
    def empty() -> int:
        "Nothing."
        return 1
    print(empty(), flush=True)
    from flows.reporting import finish_reporting
    finish_reporting()
    {tail}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded server's database is made once."""
    return tmp_path_factory.mktemp("embedded")


def test_a_server_of_our_own_ends_with_the_command(folder: Path) -> None:
    script = EMBEDDED.replace("{tail}", "")
    shown = run([sys.executable, "-c", script], env=environment(), cwd=folder).output.splitlines()
    assert shown[-1] == "1"
    assert processes_of(shown[0]) == []
    assert (folder / "var/prefect/prefect.db").exists()


def test_nothing_survives_a_kill(folder: Path) -> None:
    script = EMBEDDED.replace("{tail}", "import threading; threading.Event().wait(600)")
    with spawn([sys.executable, "-c", script], env=environment(), cwd=folder) as child:
        lines = child.lines()
        url = next(lines)
        assert next(line for line in lines if line == "1")
        assert processes_of(url) != []
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
        await_that(lambda: processes_of(url) == [], 10)


def processes_of(url: str) -> list[str]:
    """Servers that were started for the port of `url`."""
    port = url.rpartition(":")[2].partition("/")[0]
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "uvicorn" in words and port in words:
            found.append(entry.parent.name)
    return found


def await_that(holds: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
