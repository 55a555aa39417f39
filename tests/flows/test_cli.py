"""The command as its users have it: processes, exit statuses, what is left after a kill."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from coreimage.cli.app import cli
from coreimage.host.process import Completed, run, spawn
from tests.unit.cli.commands import commands

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("prefect", "boto3", "pydantic", "requests", "rich")


def coreimage(words: Sequence[str], cwd: Path, accept: Sequence[int] = (0,)) -> Completed:
    return run([sys.executable, "-m", "coreimage.cli", *words], env=environment(), cwd=cwd, accept=accept)


def environment() -> dict[str, str]:
    return {
        "HOME": "/nonexistent",
        "COREIMAGE_CACHE": os.environ["COREIMAGE_CACHE"],
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def test_help_of_every_command_is_light(tmp_path: Path) -> None:
    script = (
        "import json, sys\nfrom coreimage.cli.app import run\n"
        "status = [run(words) for words in json.loads(sys.argv[1])]\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "sys.exit(any(status) or bool(heavy))"
    )
    words = json.dumps([[*words, "--help"] for words, _ in commands(cli)])
    shown = run([sys.executable, "-c", script, words], env=environment(), cwd=tmp_path).output
    assert shown.count("Usage: coreimage") == len(list(commands(cli)))


def test_a_command_imports_no_other(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom coreimage.cli.app import run\nrun(['keys', 'rotate', '--help'])\n"
        "print(*sorted(name for name in sys.modules if name.startswith('coreimage.cli.commands.')))"
    )
    shown = run([sys.executable, "-c", script], env=environment(), cwd=tmp_path).output
    assert shown.splitlines()[-1].split() == ["coreimage.cli.commands.keys", "coreimage.cli.commands.keys.rotate"]


@pytest.mark.parametrize(
    ("words", "status", "hint"),
    [
        (["nothing"], 2, "No such command"),
        (["build", "debian-core/13/egde"], 2, "did you mean 'debian-core/13/edge'?"),
        (["build", "debian-core/13/edge", "--device", "bord"], 2, "its devices: generic_amd64"),
        (["build", "debian-core/13/edge", "--output", "no/x86.img"], 2, "make the folder"),
        (["build", "debian-core/13/edge", "--output", "."], 2, "name a file in it"),
        (["build", "debian-core/13/edge", "--output", "/proc/x86.img"], 2, "name one of yours"),
        (["build", "debian-core/13/edge", "--output", "here.txt"], 2, "--force"),
        (["build", "debian-core/13/edge", "--output", "x", "--login-key", "here.txt"], 2, "--login-key FILE"),
        (["--project", "here.txt", "build", "x"], 2, "here.txt:1:"),
        (["--store", "ftp://x", "channel", "list"], 2, "s3://BUCKET/PREFIX"),
        (["channel", "list"], 1, "coreimage build CHANNEL"),
        (["channel", "list", "--server", "."], 2, "--keyring"),
        (["serve", "--host", "203.0.113.1"], 1, "--port 0"),
        (["serve", "--port", "http"], 2, "--port"),
        (["boot", "absent.img"], 2, "does not exist"),
        (["flash", "core", "13", "--channel", "edge", "--output", "x.img", "--developer-mode"], 2, "ssh-keygen"),
        (["--project", "absent.yaml", "build", "x"], 2, "--project FILE"),
        (["flash", "core", "13", "--channel", "edge", "--output", "x.img"], 1, "coreimage build CHANNEL"),
        (["flash", "core", "13", "--channel", "edge", "--output", "x.img", "--server", "."], 2, "--keyring"),
        (["flash", "core", "13", "--channel", "edge", "--output", "no/x.img"], 2, "make the folder"),
        (["keys", "show"], 1, "coreimage keys init"),
    ],
)
def test_errors_say_what_to_do(words: list[str], status: int, hint: str, tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("mine: true\n")
    ended = coreimage(words, tmp_path, accept=(status,))
    assert hint in ended.output
    assert "Traceback" not in ended.output
    assert [path.name for path in tmp_path.iterdir()] == ["here.txt"], "something was made before the refusal"


def test_an_error_is_a_document_with_json(tmp_path: Path) -> None:
    ended = coreimage(["--json", "keys", "show"], tmp_path, accept=(1,))
    found = json.loads(ended.output.splitlines()[-1])
    assert found["error"]["kind"] == "HostError"


EMBEDDED = """
import sys
from pathlib import Path
from coreimage import logs
from coreimage.services.prefect_server import prefect_api
logs.show(30)
with prefect_api(Path("var/prefect")) as url:
    print(url, flush=True)
    from prefect import flow
    @flow
    def empty() -> int:
        "Nothing."
        return 1
    print(empty(), flush=True)
    from flows.report.runs import finish_reporting
    finish_reporting()
    {tail}
"""


def test_a_server_of_our_own_ends_with_the_command(tmp_path: Path) -> None:
    script = EMBEDDED.replace("{tail}", "")
    shown = run([sys.executable, "-c", script], env=environment(), cwd=tmp_path).output.splitlines()
    assert shown[-1] == "1"
    assert processes_of(shown[0]) == []
    assert (tmp_path / "var/prefect/prefect.db").exists()


def test_nothing_survives_a_kill(tmp_path: Path) -> None:
    script = EMBEDDED.replace("{tail}", "import threading; threading.Event().wait(600)")
    with spawn([sys.executable, "-c", script], env=environment(), cwd=tmp_path) as child:
        lines = child.lines()
        url = next(lines)
        assert next(line for line in lines if line == "1")
        assert processes_of(url) != []
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
        await_that(lambda: processes_of(url) == [], 10)


STUCK = """
import sys
import coreimage.cli.keys
from coreimage import rootfs
from coreimage.cli import main
from coreimage.host.sandbox import Sandbox

def probe(archives, *, store, fetch, run):
    run(["sh", "-c", "echo stuck >&2; sleep " + sys.argv[1]], sandbox=Sandbox[sys.argv[2]],
        on_line=lambda line: print(line, flush=True))

coreimage.cli.keys.make_missing_keys = lambda folder: None
rootfs.probe_archives = probe
main(["build", "debian-core/13/edge", "--output", "x86.img"])
"""


@pytest.mark.parametrize(
    ("number", "sandbox", "status"),
    [(signal.SIGINT, "ROOT", 130), (signal.SIGTERM, "PID_NAMESPACE", 130), (signal.SIGKILL, "ROOT", -signal.SIGKILL)],
)
def test_nothing_is_left_when_a_build_is_interrupted(
    number: signal.Signals, sandbox: str, status: int, tmp_path: Path
) -> None:
    seconds = f"6{os.getpid()}{number.value}"
    with spawn([sys.executable, "-c", STUCK, seconds, sandbox], env=environment(), cwd=tmp_path) as child:
        lines = child.lines()
        assert "stuck" in lines
        started = processes_with(f"sleep {seconds}") | processes_with(str(tmp_path / "var/prefect"), "environ")
        assert len(started) > 2, "the sleeper in its sandbox, and Prefect's server"
        os.kill(child.pid, number)
        assert child.wait(10) == status
        said = list(lines)
    assert number is signal.SIGKILL or any("Interrupted" in line for line in said)
    await_that(lambda: not [pid for pid in started if Path("/proc", pid).exists()], 10)
    assert [path.name for path in tmp_path.iterdir()] == ["var"]


def processes_with(text: str, file: str = "cmdline") -> set[str]:
    """The ids of those whose command line, or environment, has `text`."""
    found = set()
    for entry in Path("/proc").glob(f"[0-9]*/{file}"):
        with suppress(OSError):
            if text in entry.read_bytes().decode(errors="replace").replace("\0", " "):
                found.add(entry.parent.name)
    return found


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
