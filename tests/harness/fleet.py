"""A real installation of several machines: PostgreSQL, Redis, Prefect's server and S3 on one, workers on others.

A machine is a network namespace with an address of its own, and a file system of its own where the others have theirs:
nothing is shared but the network. Needs root. Settings are those of infra/systemd/*.env.example.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from coreimage.services.ports import free_port
from tests.harness.api import Api
from tests.harness.s3 import S3Server, seaweedfs
from tests.harness.workshop import wait_until

_EXAMPLES = Path(__file__).parents[2] / "infra/systemd"
_READY_WITHIN_S = 300.0
_MACHINE = """
set -eu
mount -t tmpfs tmpfs /mnt
mkdir /mnt/home /mnt/tmp
[ -z "$2" ] || cp -r "$2" /mnt/keys
mount --move /mnt "$1"
cd "$1/home"
shift 2
exec "$@"
"""


@dataclass
class Machine:
    """`folder` is the place of its own file system, the same in all of them."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def took(self, run: str) -> bool:
        """Whether its worker began that run: of several that see it, all but one are told that it is taken."""
        said = self.log.read_text()
        return f"submitting flow run '{run}'" in said and f"Aborted submission of flow run '{run}'" not in said

    def pids(self) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def lose(self) -> None:
        """It is gone from one moment to the next, with all that ran on it."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Fleet(Api):
    """`address` is that of the machine with the servers, which is this one."""

    folder: Path
    address: str
    s3: S3Server
    url: str
    password: str
    database_url: str
    """As libpq takes it."""
    stack: ExitStack
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def api_url(self) -> str:
        return self.url

    def environment(self) -> dict[str, str]:
        """What everybody who talks to server and store has set."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_", "COREI"))}
        own = {
            "PREFECT_API_URL": self.url,
            "PREFECT_API_AUTH_STRING": self.password,
            "COREIMAGE_STORE": f"s3://{self.s3.bucket}",
        }
        shipped = {**_shipped("worker", own), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        return {**kept, **shipped, **self.s3.environment()}

    def add(self, queue: str, keys: Path | None = None, limit: int = 2) -> Machine:
        """A machine with a worker of `queue`; it alone gets the keys that are named."""
        number = len(self.machines) + 2
        name = f"{self.address.replace('.', '-')}-{number}"
        _network(name, self.address, number)
        self.stack.callback(_forget_network, name)
        own = self.folder / "machine"
        own.mkdir(exist_ok=True)
        environment = {
            **self.environment(),
            "HOME": str(own / "home"),
            "TMPDIR": str(own / "tmp"),
            "PREFECT_HOME": str(own / "home/prefect"),
            "COREIMAGE_CACHE": str(own / "cache"),
            "COREIMAGE_KEYS": str(own / "keys"),
        }
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "coreimage", "--work-queue", queue]
        machine = ["unshare", "--mount", "sh", "-c", _MACHINE, "sh", str(own), str(keys or "")]
        log = self.folder / f"worker-{number}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", name, *machine, *worker, "--name", name, "--limit", str(limit)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        made = self.machines[name] = Machine(name, process, log)
        self.stack.callback(made.lose)
        return made

    def said(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """Server and store, without workers yet."""
    with ExitStack() as stack:
        address = stack.enter_context(_bridge())
        s3 = stack.enter_context(seaweedfs(_made(folder / "s3"), host=address))
        database_url = stack.enter_context(postgres(folder / "postgres"))
        redis_url = stack.enter_context(redis(folder / "redis"))
        password = f"admin:{secrets.token_urlsafe(12)}"
        url = stack.enter_context(_server(folder, address, _settings(database_url, redis_url, password)))
        yield Fleet(folder, address, s3, url, password, database_url.replace("+asyncpg", ""), stack)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of its own, as the user `postgres` where the tests run as root; its URL for Prefect."""
    port, as_owner = free_port(), ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
    binaries = postgres_programs()
    cluster = Path(tempfile.mkdtemp(prefix="coreimage-postgres-", dir="/tmp"))
    shutil.chown(cluster, "postgres", "postgres")
    try:
        initdb = [str(binaries / "initdb"), "-D", str(cluster / "pg"), "-U", "prefect", "--auth=trust", "-E", "UTF8"]
        subprocess.run([*as_owner, *initdb], check=True, cwd="/", capture_output=True)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={cluster}", "-p", str(port)]
        with _running([*as_owner, binaries / "postgres", "-D", cluster / "pg", *options], _made(folder) / "log"):
            ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, _READY_WITHIN_S, "PostgreSQL")
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(cluster, ignore_errors=True)


def postgres_programs() -> Path:
    """The folder of the newest that is installed."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    port, password = free_port(), secrets.token_hex(8)
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", ""]
    with _running([*argv, "--dir", str(_made(folder))], folder / "log"):
        wait_until(lambda: "ready to accept" in (folder / "log").read_text().lower(), _READY_WITHIN_S, "Redis")
        yield f"redis://:{password}@127.0.0.1:{port}"


def _settings(database_url: str, redis_url: str, password: str) -> dict[str, str]:
    own = {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_REDIS_MESSAGING_URL": f"{redis_url}/0",
        "PREFECT_SERVER_DOCKET_URL": f"{redis_url}/1",
    }
    return {**_shipped("server", own), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def _shipped(name: str, own: Mapping[str, str]) -> dict[str, str]:
    """The settings of an example, with this place's `own` values for some of them."""
    lines = (_EXAMPLES / f"{name}.env.example").read_text().splitlines()
    shipped = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(own) <= set(shipped)
    return {**shipped, **own}


@contextmanager
def _server(folder: Path, address: str, settings: Mapping[str, str]) -> Iterator[str]:
    environment = {**os.environ, **settings, "PREFECT_HOME": str(folder / "server")}
    prefect = [sys.executable, "-m", "prefect", "server"]
    upgrade = subprocess.run(
        [*prefect, "database", "upgrade", "--yes"], env=environment, capture_output=True, text=True, check=False
    )
    assert upgrade.returncode == 0, upgrade.stdout + upgrade.stderr
    port = free_port()
    url = f"http://{address}:{port}/api"
    argv = [*prefect, "start", "--host", address, "--port", str(port)]
    with _running(argv, folder / "server.log", environment) as process:

        def ready() -> bool:
            assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310
                return True
            return False

        wait_until(ready, _READY_WITHIN_S, "Prefect's server")
        yield url


@contextmanager
def _running(
    argv: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd="/"
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _bridge() -> Iterator[str]:
    """The address of this machine in a network of its own."""
    second, third = 64 + secrets.randbelow(128), secrets.randbelow(256)
    address = f"10.{second}.{third}.1"
    name = _bridge_name(address)
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("address", "add", f"{address}/24", "dev", name)
        _ip("link", "set", name, "up")
        yield address
    finally:
        _ip("link", "delete", name)


def _network(name: str, address: str, number: int) -> None:
    inside, outside = ["netns", "exec", name, "ip"], f"{_bridge_name(address)}-{number}"
    _ip("netns", "add", name)
    _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", outside, "master", _bridge_name(address), "up")
    _ip(*inside, "address", "add", f"{address.rpartition('.')[0]}.{number}/24", "dev", "eth0")
    _ip(*inside, "link", "set", "eth0", "up")
    _ip(*inside, "link", "set", "lo", "up")


def _forget_network(name: str) -> None:
    _ip("netns", "delete", name)


def _bridge_name(address: str) -> str:
    """At most 15 characters with a machine's number behind."""
    _, second, third, _ = address.split(".")
    return f"ci{second}-{third}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
