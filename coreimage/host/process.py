"""The only place that starts processes.

Argv lists only, a small fixed environment, standard input closed unless given, and nothing outlives us: the kernel
kills the child when we die (`PR_SET_PDEATHSIG`), and a child in a process namespace takes all its descendants along.
A child may run with the programs of a tools tree in place of the machine's.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import structlog

from coreimage.errors import HostError, InfrastructureError, ProcessError
from coreimage.host.children import Child, check_cancelled, current_group
from coreimage.host.environment import environment, host_facts, sandbox_refusal
from coreimage.host.sandbox import Sandbox, sandbox_argv

log = structlog.get_logger("coreimage.process")

_LINES_IN_ERRORS = 40
_MAX_LINES = 100_000
"""Of more output than this only the end is kept; `on_line` sees all of it."""


@dataclass(frozen=True)
class Completed:
    """A child that ended with a status that its caller accepts."""

    argv: tuple[str, ...]
    status: int
    output: str
    """Standard output and error, interleaved; only standard error when standard output was redirected."""


class Run(Protocol):
    """Runs a child to its end. `run` explains the arguments."""

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        sandbox: Sandbox = Sandbox.NONE,
        network: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        timeout_s: float | None = None,
        on_line: Callable[[str], None] | None = None,
        accept: Sequence[int] = (0,),
        resolution: str = "",
    ) -> Completed: ...


def run(
    argv: Sequence[str | Path],
    *,
    tree: Path | None = None,
    sandbox: Sandbox = Sandbox.NONE,
    network: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    timeout_s: float | None = None,
    on_line: Callable[[str], None] | None = None,
    accept: Sequence[int] = (0,),
    resolution: str = "",
) -> Completed:
    """Run `argv` to its end and return its status and output.

    Args:
        tree: The folder of a tools tree. Its programs run, and see the machine's files but for /usr and /etc.
        network: Without it the child has a loopback interface that is down, and no other.
        env: Added to a small fixed environment.
        stdout: Where standard output goes; only standard error is collected then.
        on_line: Called with each line of the output as it comes, without line end.
        accept: The statuses that are no error.
        resolution: What the error says to do when the child fails.

    Raises:
        ProcessError: The status is not in `accept`.
        HostError: The program is not installed, or this host refuses the sandbox.
        InfrastructureError: The child was ended after `timeout_s`.
    """
    lines: deque[str] = deque(maxlen=_MAX_LINES if stdout is None else _LINES_IN_ERRORS)
    expired = threading.Event()
    with (
        spawn(argv, tree=tree, sandbox=sandbox, network=network, env=env, cwd=cwd, stdin=stdin, stdout=stdout) as child,
        _deadline(child, timeout_s, expired),
    ):
        for line in child.lines():
            lines.append(line)
            if on_line:
                on_line(line)
        status = child.wait()
    command = tuple(str(word) for word in argv)
    if status not in accept:
        check_cancelled()
    if expired.is_set():
        raise InfrastructureError(
            f"{command[0]} took longer than {timeout_s:.0f} s and was ended", resolution=resolution
        )
    if status not in accept:
        if os.geteuid() != 0 and lines and lines[-1].startswith(("unshare:", "newuidmap:", "newgidmap:")):
            refusal = sandbox_refusal(host_facts(), sandbox)
            if refusal:
                raise refusal
        raise ProcessError(command, status, list(lines)[-_LINES_IN_ERRORS:], resolution)
    return Completed(command, status, "".join(f"{line}\n" for line in lines))


def run_in(tree: Path) -> Run:
    """Return `run` with the programs of the tools tree that is unpacked at `tree`."""
    return functools.partial(run, tree=tree)


@contextmanager
def spawn(
    argv: Sequence[str | Path],
    *,
    tree: Path | None = None,
    sandbox: Sandbox = Sandbox.NONE,
    network: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
) -> Iterator[Child]:
    """Start `argv`, and end it with all that it started when the block is left. `run` explains the arguments.

    Raises:
        HostError: The program is not installed or cannot be started.
    """
    command = [*sandbox_argv(sandbox, network=network, tree=tree), *(str(word) for word in argv)]
    variables = environment(env, tree=tree, network=network)
    _require_installed(command[0], variables["PATH"], cwd)
    _require_installed(str(argv[0]), variables["PATH"], cwd, tree)
    group = current_group()
    group.check()
    log.debug("start", argv=" ".join(str(word) for word in argv))
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if isinstance(stdin, bytes) else (stdin or subprocess.DEVNULL),
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE if stdout else subprocess.STDOUT,
            env=variables,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"{argv[0]} cannot be started: {error.strerror}", where=str(cwd or "")) from error
    child = Child(popen)
    try:
        group.add(child)
        if popen.stdin and isinstance(stdin, bytes):
            threading.Thread(target=_feed, args=(popen.stdin, stdin), daemon=True).start()
        yield child
    finally:
        group.remove(child)
        child.end()
        for pipe in (popen.stdout, popen.stderr):
            if pipe:
                pipe.close()


def _feed(pipe: IO[bytes], content: bytes) -> None:
    try:
        with pipe:
            pipe.write(content)
    except BrokenPipeError:  # the child may end without reading all of it
        return


@contextmanager
def _deadline(child: Child, timeout_s: float | None, expired: threading.Event) -> Iterator[None]:
    def end() -> None:
        expired.set()
        child.end()

    timer = threading.Timer(timeout_s or 0, end)
    timer.daemon = True
    if timeout_s is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _require_installed(program: str, path: str, cwd: Path | None, tree: Path | None = None) -> None:
    if tree and "/" not in program:
        if shutil.which(program, path=":".join(f"{tree}{folder}" for folder in path.split(":"))) is None:
            raise HostError(f"{program} is not in the tools tree", where=str(tree))
    elif shutil.which(str((cwd or Path()) / program) if "/" in program else program, path=path) is None:
        raise HostError(f"{program} is not installed", resolution="run `make install`")
