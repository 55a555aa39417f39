"""A whole installation on one machine: S3, Prefect server, web server and worker, as children of one supervisor.

Everything is below one folder: `s3/` and `prefect/` hold the data, `log/` what each service says, `secret.json` the
keys to the S3 server, `state.json` the ports. The supervisor holds a lock on `lock` for as long as it lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog

from coreimage.config import load_project
from coreimage.errors import CoreimageError, HostError
from coreimage.process import Child, run, spawn

log = structlog.get_logger("coreimage.up")

BUCKET = "coreimage"
_PORTS = {"prefect": 4200, "s3": 8333, "web": 8080}
_READY_WITHIN_S = 180.0
_POLL_S = 0.2
_AGAIN_AFTER_S = 5.0
_PAUSE_S = 1.0
_END_WITHIN_S = {"s3": 40.0, "prefect": 15.0, "web": 5.0, "worker": 30.0}
_S3_MEMORY = {"GOMEMLIMIT": "300MiB", "GOGC": "50"}
"""SeaweedFS takes 800 MB after one large upload otherwise, and 400 at its peak with this."""


@dataclass(frozen=True)
class Service:
    """A child that is started again when it ends by itself. `ready` is asked until it says so."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], bool]


class Installation:
    """`folder` holds it; `project_file` and `keys_folder` are what its worker builds and signs with."""

    def __init__(self, folder: Path, project_file: Path, keys_folder: Path) -> None:
        self.folder, self._project_file, self._keys_folder = folder.absolute(), project_file, keys_folder
        self.ports = self._remembered_ports()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['prefect']}/api"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['prefect']}"

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['web']}"

    @property
    def store_url(self) -> str:
        return f"s3://{BUCKET}"

    def supervise(self, ready: Callable[[], None]) -> None:
        """Runs all services until SIGTERM or SIGINT; `ready` is called once, when all of it works.

        Raises HostError when it is running already, or a service does not start.
        """
        with self._alone(), _Stop() as stop, ExitStack() as stack:
            running = []
            os.environ |= self._environment()
            for service in (self._s3(), self._prefect()):
                running.append(stack.enter_context(_kept_running(service, self.folder / "log")))
                self._await(service, running[-1], stop)
            self.deploy()
            for service in (self._web(), self._worker()):
                running.append(stack.enter_context(_kept_running(service, self.folder / "log")))
                self._await(service, running[-1], stop)
            ready()
            while not stop.asked.wait(_PAUSE_S):
                for kept in running:
                    kept.look()

    def running_pid(self) -> int | None:
        """The supervisor's process, None when there is none."""
        with suppress(OSError, ValueError), (self.folder / "lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read())
        return None

    def end(self) -> bool:
        """Ends a running installation; whether there was one. Raises HostError when it does not end."""
        pid = self.running_pid()
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + sum(_END_WITHIN_S.values())
        while self.running_pid() is not None:
            if time.monotonic() > deadline:
                raise HostError(f"process {pid} does not end", resolution=f"look at {self.folder}/log; then kill it")
            time.sleep(_POLL_S)
        return True

    def deploy(self) -> str:
        """Gives its Prefect server the deployments of the project; what the command says."""
        argv = [*self._coreimage(), "--project", str(self._project_file), "deploy"]
        done = run(argv, env={**self._secrets(), **self._environment()}, resolution=f"see {self.folder}/log")
        (self.folder / "log/deploy.log").write_text(done.output)
        return done.output

    def _s3(self) -> Service:
        weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
        s3 = self.ports["s3"]
        others = {name: unused_port() for name in ("master", "volume", "filer", "admin")}
        (self.folder / "s3").mkdir(exist_ok=True)
        argv = [
            *(weed, "-logtostderr=true", "mini", f"-dir={self.folder / 's3'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-s3.port={s3}", *(f"-{name}.port={port}" for name, port in others.items())),
            *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-master.telemetry=false", f"-bucket={BUCKET}"),
        ]
        home = {"HOME": str(self.folder / "s3")}
        return Service("s3", tuple(argv), {**self._credentials(), **_S3_MEMORY, **home}, self._s3_is_ready)

    def _prefect(self) -> Service:
        environment = {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # For the links in what it sends; and where the pages find it, which need not be the usual port.
            "PREFECT_UI_URL": self.ui_url,
            "PREFECT_UI_API_URL": self.api_url,
            # Leases in memory are lost when the server restarts, and the runs that hold them are ended.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        argv = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1")
        port = str(self.ports["prefect"])
        return Service("prefect", (*argv, "--port", port), environment, lambda: _answers(f"{self.api_url}/health"))

    def _web(self) -> Service:
        argv = (*self._coreimage(), "serve", "--port", str(self.ports["web"]))
        return Service("web", argv, self._environment(), lambda: _listens(self.ports["web"]))

    def _worker(self) -> Service:
        queues = ("--work-queue", "build", "--work-queue", "signing")
        argv = (sys.executable, "-m", "prefect", "worker", "start", "--pool", "coreimage", "--name", "local", *queues)
        # Prefect's own 10 s leave it idle between the short steps of a build.
        environment = {**self._environment(), "PREFECT_WORKER_QUERY_SECONDS": "2"}
        # The child's own log says when it polls; nothing here has to wait for it.
        return Service("worker", argv, environment, lambda: True)

    def _secrets(self) -> dict[str, str]:
        """Those that the project file names: for its deployments, and for no service."""
        notifications = load_project(self._project_file).config.notifications
        names = notifications.variables if notifications else ()
        return {name: os.environ[name] for name in names if name in os.environ}

    def _coreimage(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "coreimage.cli", "--store", self.store_url)

    def _environment(self) -> dict[str, str]:
        """What worker, web server and deployment see: where everything is, and the keys to it."""
        return {
            **{name: value for name, value in os.environ.items() if name.startswith(("COREIMAGE_", "PYTHON"))},
            **self._credentials(),
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.ports['s3']}",
            "AWS_REGION": "us-east-1",
            "COREIMAGE_KEYS": str(self._keys_folder),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(self.folder / "worker"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_UI_URL": self.ui_url,
        }

    def _credentials(self) -> dict[str, str]:
        """Made once, readable by their owner only."""
        path = self.folder / "secret.json"
        if not path.exists():
            made = {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30)}
            with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
                json.dump(made, file)
        found: dict[str, str] = json.loads(path.read_text())
        return found

    def _s3_is_ready(self) -> bool:
        """A signed write works; the bucket and the credentials come some time after the port."""
        if not _listens(self.ports["s3"]):
            return False
        from coreimage.storage import open_store, require_format  # noqa: PLC0415

        try:
            require_format(open_store(self.store_url))
        except CoreimageError:
            return False
        return True

    def _await(self, service: Service, kept: _Kept, stop: _Stop) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        while not service.ready():
            if stop.asked.is_set():
                raise KeyboardInterrupt
            if not kept.running() or time.monotonic() > deadline:
                path = self.folder / "log" / f"{service.name}.log"
                said = "".join(f"\n  | {line}" for line in path.read_text().splitlines()[-15:])
                raise HostError(f"{service.name} does not start{said}", where=str(path))
            time.sleep(_POLL_S)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HostError("it is running already", where=str(self.folder), resolution="make down") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            self.ports = {name: port if _is_free(port) else unused_port() for name, port in self.ports.items()}
            (self.folder / "state.json").write_text(json.dumps(self.ports))
            yield

    def _remembered_ports(self) -> dict[str, int]:
        try:
            return {**_PORTS, **json.loads((self.folder / "state.json").read_text())}
        except (OSError, ValueError):
            return dict(_PORTS)


class _Kept:
    """A running service, started again some time after it ended by itself."""

    def __init__(self, service: Service, log_folder: Path, stack: ExitStack) -> None:
        self._service, self._stack = service, stack
        self._path = log_folder / f"{service.name}.log"
        self._again_at_s: float | None = None
        self._child = self._start()

    def running(self) -> bool:
        return self._child.running()

    def end(self) -> None:
        self._child.end(grace_s=_END_WITHIN_S[self._service.name])

    def look(self) -> None:
        if self._child.running():
            return
        if self._again_at_s is None:
            log.warning(f"{self._service.name} ended", log=str(self._path))
            self._again_at_s = time.monotonic() + _AGAIN_AFTER_S
        elif time.monotonic() > self._again_at_s:
            self._again_at_s, self._child = None, self._start()

    def _start(self) -> Child:
        child = self._stack.enter_context(spawn(self._service.argv, env=self._service.environment))
        threading.Thread(target=self._copy, args=(child,), daemon=True).start()
        return child

    def _copy(self, child: Child) -> None:
        with suppress(ValueError), self._path.open("a", encoding="utf-8") as file:
            for line in child.lines():
                file.write(f"{line}\n")
                file.flush()


@contextmanager
def _kept_running(service: Service, log_folder: Path) -> Iterator[_Kept]:
    with ExitStack() as stack:
        kept = _Kept(service, log_folder, stack)
        try:
            yield kept
        finally:
            kept.end()


class _Stop:
    """Turns SIGTERM and SIGINT into an event, for as long as the block lasts."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __enter__(self) -> _Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked.set()


def detached(action: Callable[[Callable[[], None]], None], log_path: Path) -> None:
    """Runs `action` in a process of its own that outlives us, and waits until it calls what it is handed.

    Raises HostError with what it said when it ends before.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _become_daemon(action, log_path, writing)
    os.close(writing)
    os.wait()
    with os.fdopen(reading) as answers:
        answer = answers.read()
    if answer != "ready":
        raise HostError(answer or "it ended before it was ready", resolution=f"see {log_path}")


def _become_daemon(action: Callable[[Callable[[], None]], None], log_path: Path, writing: int) -> None:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    output = os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)

    def answer(text: str) -> None:
        with suppress(OSError):
            os.write(writing, text.encode())
            os.close(writing)

    try:
        action(lambda: answer("ready"))
    except CoreimageError as error:
        answer(str(error))
    except BaseException as error:
        answer(f"{type(error).__name__}: {error}")
        raise
    finally:
        os._exit(0)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return True
    except OSError:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def unused_port() -> int:
    """Below 55000: SeaweedFS takes the port 10000 higher, too."""
    while True:
        port = 20_000 + secrets.randbelow(20_000)
        if not _listens(port) and not _listens(port + 10_000):
            return port
