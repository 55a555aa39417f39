"""The only place that starts processes.

Argv lists only, a small fixed environment, standard input closed unless given, and nothing outlives us: the kernel
kills the child when we die (`PR_SET_PDEATHSIG`), and a child in a namespace of its own takes all its descendants along.
A child may run with the programs of a tools tree in place of the machine's.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Protocol

import structlog

from coreimage.errors import CoreimageError, HostError, InfrastructureError, ProcessError

log = structlog.get_logger("coreimage.process")

_KEPT_LINES = 40
_MOST_LINES = 100_000
"""More output than this is kept from its end only; `on_line` sees all of it."""
_INHERITED = ("PATH", "HOME", "TMPDIR", "USER")
_INHERITED_WITH_NETWORK = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""A proxy's address may hold a password: who has no network does not get to see it."""
_TREE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_ENTER = """
set -eu
tree=$1; shift
for folder in usr etc; do mount --bind -o ro "$tree/$folder" "/$folder"; done
[ "$$" != 1 ] || mount -t proc proc /proc
exec "$@"
"""
"""Puts the tree's /usr and /etc in place of the machine's: with /bin, /lib and their like being links into /usr, these
are all its programs, libraries and settings."""


class Sandbox(Enum):
    """What a child is wrapped in.

    NONE: it dies with us, its own children may not.
    FAMILY: a process namespace of its own: it and all its descendants die with us.
    ROOT: the same, and it believes to be root: all ids that /etc/subuid and /etc/subgid grant are mapped, and
    it may mount in a mount namespace of its own. For root itself no user namespace is made.

    With a tools tree all of them get a mount namespace, and an ordinary user's child believes to be root.
    """

    NONE = "none"
    FAMILY = "family"
    ROOT = "root"


@dataclass(frozen=True)
class Completed:
    argv: tuple[str, ...]
    status: int
    output: str
    """Standard output and error, interleaved, of a child whose standard output was not redirected."""


class Run(Protocol):
    """Runs a child to its end. See `run` for the arguments."""

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
    """Runs `argv` to its end and gives its output, lines handed to `on_line` as they come.

    With the folder of a tools `tree`, its programs run, and see the machine's files but for /usr and /etc.
    `env` is added to a small fixed environment; `network=False` leaves the child a loopback interface that is down.
    With `stdout` redirected, only standard error is collected. Raises ProcessError for a status not in `accept`,
    HostError for a missing program, InfrastructureError when `timeout_s` passes.
    """
    lines: deque[str] = deque(maxlen=_MOST_LINES if stdout is None else _KEPT_LINES)
    with spawn(
        argv, tree=tree, sandbox=sandbox, network=network, env=env, cwd=cwd, stdin=stdin, stdout=stdout
    ) as child:
        expired = threading.Event()
        timer = _deadline(child, timeout_s, expired)
        for line in child.lines():
            lines.append(line)
            if on_line:
                on_line(line)
        status = child.wait()
        if timer:
            timer.cancel()
    command = tuple(str(word) for word in argv)
    if status not in accept and (family := _FAMILY.get()):
        family.check()
    if expired.is_set():
        raise InfrastructureError(
            f"{command[0]} took longer than {timeout_s:.0f} s and was ended", resolution=resolution
        )
    if status not in accept:
        if os.geteuid() != 0 and lines and lines[-1].startswith(("unshare:", "newuidmap:", "newgidmap:")):
            _explain_sandbox(sandbox)
        raise ProcessError(command, status, list(lines)[-_KEPT_LINES:], resolution)
    return Completed(command, status, "".join(f"{line}\n" for line in lines))


def run_in(tree: Path) -> Run:
    """`run` with the programs of the tools tree that is unpacked at `tree`."""
    return functools.partial(run, tree=tree)


class Child:
    """A running process. `lines()` yields its output, without line ends, until it closes it."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    def lines(self) -> Iterator[str]:
        source = self._popen.stdout or self._popen.stderr
        for line in source or ():
            yield line.decode(errors="replace").rstrip("\r\n")

    def wait(self, timeout_s: float | None = None) -> int:
        return self._popen.wait(timeout_s)

    def running(self) -> bool:
        return self._popen.poll() is None

    def end(self, grace_s: float = 3.0) -> None:
        """SIGTERM, then SIGKILL, to the whole process group."""
        if not self.running():
            # What it started may live on, and hold its output open.
            self._signal(signal.SIGKILL)
            return
        self._signal(signal.SIGTERM)
        try:
            self._popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._popen.wait()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except (ProcessLookupError, PermissionError):
            return


_FAMILY: ContextVar[Family | None] = ContextVar("family", default=None)


class Family:
    """Children that are ended together, whichever threads start them. One made within another is part of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._reason: CoreimageError | None = None
        self._outer = _FAMILY.get()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Children started in the block, also in contexts copied from it, are of this family."""
        token = _FAMILY.set(self)
        try:
            yield
        finally:
            _FAMILY.reset(token)

    def end(self, reason: CoreimageError) -> None:
        """Kills all children. From now on, whoever runs or starts one gets `reason` raised."""
        with self._lock:
            self._reason = self._reason or reason
            children = list(self._children)
        for child in children:
            child.end(grace_s=0)

    def check(self) -> None:
        if self._reason:
            raise self._reason
        if self._outer:
            self._outer.check()

    def add(self, child: Child) -> None:
        with self._lock:
            self._children.add(child)
        if self._reason:
            child.end(grace_s=0)
        if self._outer:
            self._outer.add(child)

    def remove(self, child: Child) -> None:
        with self._lock:
            self._children.discard(child)
        if self._outer:
            self._outer.remove(child)


def require_wanted() -> None:
    """For who waits for something else than a child: raises the reason when the family of this context was ended."""
    if family := _FAMILY.get():
        family.check()


@contextmanager
def interruptible() -> Iterator[None]:
    """When the block is interrupted, the children of its threads are killed, so that nobody has to wait for them.

    A thread takes part with a context that is copied within the block.
    """
    family = Family()
    with family.joined():
        try:
            yield
        except Exception:
            raise
        except BaseException:
            family.end(InfrastructureError("interrupted"))
            raise


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
    """Starts `argv` and ends it, with all it started, when the block is left."""
    command = [*_wrapper(sandbox, network, tree), *(str(word) for word in argv)]
    variables = environment(env, tree, network=network)
    _check_installed(command[0], variables["PATH"], cwd)
    _check_installed(str(argv[0]), variables["PATH"], cwd, tree)
    family = _FAMILY.get() or Family()
    family.check()
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
        family.add(child)
        if isinstance(stdin, bytes):
            threading.Thread(target=_feed, args=(popen, stdin), daemon=True).start()
        yield child
    finally:
        family.remove(child)
        child.end()
        for pipe in (popen.stdout, popen.stderr):
            if pipe:
                pipe.close()


def environment(
    extra: Mapping[str, str] | None = None, tree: Path | None = None, *, network: bool = True
) -> dict[str, str]:
    """What a child sees: few inherited names, a fixed locale and time zone, then `extra`."""
    names = (*_INHERITED, *_INHERITED_WITH_NETWORK) if network else _INHERITED
    kept = {name: os.environ[name] for name in names if name in os.environ}
    path = kept.get("PATH", "")
    for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin"):
        if folder not in path.split(":"):
            path = f"{path}:{folder}"
    path = _TREE_PATH if tree else path.lstrip(":")
    return {**kept, "PATH": path, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}


def entering(tree: Path, sandbox: Sandbox = Sandbox.NONE) -> list[str]:
    """What to put before an argv that is started elsewhere, for it to run the programs of a tools tree."""
    return _wrapper(sandbox, network=True, tree=tree)


def _wrapper(sandbox: Sandbox, network: bool, tree: Path | None) -> list[str]:
    die_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
    namespaces = [] if network else ["--net"]
    root = os.geteuid() == 0
    if sandbox is Sandbox.NONE and not namespaces and not tree:
        return die_with_us
    if not root:
        namespaces += _user_namespace(sandbox, tree)
    if sandbox is Sandbox.ROOT or tree:
        namespaces.append("--mount")
    if sandbox is not Sandbox.NONE or not network:
        namespaces += ["--pid", "--fork", "--kill-child=KILL"]
    enter = ["sh", "-c", _ENTER, "sh", str(tree)] if tree else []
    return [*die_with_us, "unshare", *namespaces, "--", *enter]


def _user_namespace(sandbox: Sandbox, tree: Path | None) -> list[str]:
    if sandbox is Sandbox.ROOT:
        return ["--map-root-user", "--map-auto", "--user"]
    return ["--map-root-user" if tree else "--map-current-user", "--user"]


def _feed(popen: subprocess.Popen[bytes], content: bytes) -> None:
    assert popen.stdin is not None  # noqa: S101
    try:
        with popen.stdin:
            popen.stdin.write(content)
    except BrokenPipeError:
        return


def _deadline(child: Child, timeout_s: float | None, expired: threading.Event) -> threading.Timer | None:
    if timeout_s is None:
        return None

    def end() -> None:
        expired.set()
        child.end()

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    return timer


def _check_installed(program: str, path: str, cwd: Path | None, tree: Path | None = None) -> None:
    if tree and "/" not in program:
        if shutil.which(program, path=":".join(f"{tree}{folder}" for folder in path.split(":"))) is None:
            raise HostError(f"{program} is not in the tools tree", where=str(tree))
        return
    place = str((cwd or Path()) / program) if "/" in program else program
    if shutil.which(place, path=path) is None:
        raise HostError(f"{program} is not installed", resolution="run `make install`")


@dataclass(frozen=True)
class HostFacts:
    """What decides whether an ordinary user may make namespaces."""

    apparmor_restricts: bool
    max_user_namespaces: int
    subordinate_ids: bool
    newuidmap: bool


def explain(facts: HostFacts, sandbox: Sandbox) -> HostError | None:
    """Why this host refuses `sandbox` to an ordinary user, with the exact remedy; None when it should work."""
    if facts.max_user_namespaces == 0:
        return HostError("this host forbids user namespaces", resolution="sudo sysctl user.max_user_namespaces=15000")
    if facts.apparmor_restricts:
        return HostError(
            "AppArmor keeps ordinary users from user namespaces",
            resolution="sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if sandbox is Sandbox.ROOT and not facts.newuidmap:
        return HostError("newuidmap is not installed", resolution="sudo apt-get install uidmap")
    if sandbox is Sandbox.ROOT and not facts.subordinate_ids:
        return HostError(
            "this user has no subordinate ids in /etc/subuid and /etc/subgid",
            resolution='sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$USER"',
        )
    return None


def host_facts() -> HostFacts:
    user = _user_name()
    return HostFacts(
        apparmor_restricts=_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
        max_user_namespaces=int(_read("/proc/sys/user/max_user_namespaces") or 1),
        subordinate_ids=all(
            any(line.split(":")[0] in {user, str(os.geteuid())} for line in _read(path).splitlines())
            for path in ("/etc/subuid", "/etc/subgid")
        ),
        newuidmap=shutil.which("newuidmap", path=environment()["PATH"]) is not None,
    )


def _user_name() -> str:
    """A user without an entry in /etc/passwd, as in many containers, goes by the number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _explain_sandbox(sandbox: Sandbox) -> None:
    if error := explain(host_facts(), sandbox):
        raise error
