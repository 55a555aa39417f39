"""A whole installation on one machine, as `make up` starts it: S3, Prefect's server, a web server and a worker.

Its folder holds all of it: `s3/` and `prefect/` the data, `log/` the output of each service, `secret.json` the keys to
the S3 server, `state.json` the ports, and `lock`, which the supervisor keeps locked as long as it runs. Why we have a
supervisor of our own: docs/adr/0014.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coreimage.errors import CoreimageError, HostError
from coreimage.host.process import run
from coreimage.project.loading import load_project
from coreimage.services.ports import free_port, free_seaweed_port, is_listening
from coreimage.services.service import Service, answers
from coreimage.services.supervisor import supervising

BUCKET = "coreimage"
STORE_URL = f"s3://{BUCKET}"
_USUAL_PORTS = {"prefect": 4200, "s3": 8333, "web": 8080}
_STOP_WITHIN_S = 90.0
_POLL_S = 0.2
_S3_MEMORY = {"GOMEMLIMIT": "300MiB", "GOGC": "50"}
"""Without these SeaweedFS takes 800 MB after one large upload; with them 400 MB at its peak."""


class Installation:
    """The installation in one folder, running or not."""

    def __init__(self, folder: Path, project_file: Path, keys_folder: Path) -> None:
        """Read the ports of the last start, so that the URLs are those of a running installation.

        Args:
            folder: The folder of the installation.
            project_file: The project file of its deployments.
            keys_folder: The signing keys of its worker.
        """
        self.folder, self._project_file, self._keys_folder = folder.absolute(), project_file, keys_folder
        self._log_folder = self.folder / "log"
        self._ports = dict(_USUAL_PORTS)
        with suppress(OSError, ValueError):
            self._ports |= json.loads((self.folder / "state.json").read_text())

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['prefect']}"

    @property
    def api_url(self) -> str:
        return f"{self.ui_url}/api"

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['web']}"

    def run(self, on_ready: Callable[[], None]) -> None:
        """Run all services until SIGTERM or SIGINT.

        Args:
            on_ready: Called once, when every service is ready and the deployments are made.

        Raises:
            HostError: The installation runs already, or a service does not start.
        """
        with self._locked(), supervising(self._log_folder) as supervisor:
            os.environ |= self._environment()  # For the S3 client that sees whether the server is ready.
            supervisor.start(self._s3())
            supervisor.start(self._prefect())
            self.deploy()
            supervisor.start(self._web())
            supervisor.start(self._worker())
            on_ready()
            supervisor.keep_running()

    def running_pid(self) -> int | None:
        """Return the process id of the supervisor, None when the installation does not run."""
        with suppress(OSError, ValueError), (self.folder / "lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read())
        return None

    def stop(self) -> bool:
        """Stop a running installation and wait for its end; return False when none ran.

        Raises:
            HostError: The supervisor does not end.
        """
        pid = self.running_pid()
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + _STOP_WITHIN_S
        while self.running_pid() is not None:
            if time.monotonic() > deadline_s:
                raise HostError(
                    f"process {pid} does not end", resolution=f"look at {self._log_folder}; then kill the process"
                )
            time.sleep(_POLL_S)
        return True

    def deploy(self) -> str:
        """Make the deployments of its Prefect server those of the project file; return the output of the command."""
        argv = [*self._coreimage(), "--project", str(self._project_file), "deploy"]
        done = run(argv, env={**self._secrets(), **self._environment()}, resolution=f"see {self._log_folder}")
        (self._log_folder / "deploy.log").write_text(done.output)
        return done.output

    def _s3(self) -> Service:
        def is_ready() -> bool:
            # The bucket and the credentials come some time after the port: only a signed write shows that all works.
            from coreimage.storage import open_store, require_format  # noqa: PLC0415

            if not is_listening(self._ports["s3"]):
                return False
            try:
                require_format(open_store(STORE_URL))
            except CoreimageError:
                return False
            return True

        data = self.folder / "s3"
        data.mkdir(exist_ok=True)
        inner_ports = [f"-{name}.port={free_seaweed_port()}" for name in ("master", "volume", "filer", "admin")]
        return Service(
            name="s3",
            argv=(
                *(shutil.which("weed") or str(Path(sys.executable).with_name("weed")), "-logtostderr=true"),
                *("mini", f"-dir={data}", f"-bucket={BUCKET}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *(f"-s3.port={self._ports['s3']}", *inner_ports),
                *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                "-master.telemetry=false",
            ),
            environment={**self._credentials(), **_S3_MEMORY, "HOME": str(data)},
            is_ready=is_ready,
            end_within_s=40.0,
        )

    def _prefect(self) -> Service:
        argv = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1")
        return Service(
            name="prefect",
            argv=(*argv, "--port", str(self._ports["prefect"])),
            environment={
                "PREFECT_HOME": str(self.folder / "prefect"),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                # For the links in what it sends; and where the pages find it, which need not be the usual port.
                "PREFECT_UI_URL": self.ui_url,
                "PREFECT_UI_API_URL": self.api_url,
                # Leases in memory are lost when the server restarts, and the runs that hold them are ended.
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            },
            is_ready=lambda: answers(f"{self.api_url}/health"),
            end_within_s=15.0,
        )

    def _web(self) -> Service:
        return Service(
            name="web",
            argv=(*self._coreimage(), "serve", "--port", str(self._ports["web"])),
            environment=self._environment(),
            is_ready=lambda: is_listening(self._ports["web"]),
            end_within_s=5.0,
        )

    def _worker(self) -> Service:
        queues = ("--work-queue", "build", "--work-queue", "signing")
        return Service(
            name="worker",
            argv=(
                sys.executable,
                "-m",
                "prefect",
                "worker",
                "start",
                "--pool",
                "coreimage",
                "--name",
                "local",
                *queues,
            ),
            # Prefect's own 10 s leave it idle between the short tasks of a build.
            environment={**self._environment(), "PREFECT_WORKER_QUERY_SECONDS": "2"},
            is_ready=lambda: True,  # Nothing waits for the worker; its log says when it polls.
            end_within_s=30.0,
        )

    def _coreimage(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "coreimage.cli", "--store", STORE_URL)

    def _environment(self) -> dict[str, str]:
        """Return the environment of worker, web server and deployment: addresses of the services, keys to S3."""
        return {
            **{name: value for name, value in os.environ.items() if name.startswith(("COREIMAGE_", "PYTHON"))},
            **self._credentials(),
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self._ports['s3']}",
            "AWS_REGION": "us-east-1",
            "COREIMAGE_KEYS": str(self._keys_folder),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(self.folder / "worker"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_UI_URL": self.ui_url,
        }

    def _secrets(self) -> dict[str, str]:
        """Return the variables that the project's notifications name, which only the deployments need."""
        notifications = load_project(self._project_file).config.notifications
        names = notifications.variables if notifications else ()
        return {name: os.environ[name] for name in names if name in os.environ}

    def _credentials(self) -> dict[str, str]:
        """Return the keys to the S3 server, made at the first start, in a file that only its owner can read."""
        path = self.folder / "secret.json"
        if not path.exists():
            credentials = {
                "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
                "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
            }
            with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
                json.dump(credentials, file)
        stored: dict[str, str] = json.loads(path.read_text())
        return stored

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the installation's lock, with our process id in it, and choose its ports."""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HostError(
                    "the installation runs already", where=str(self.folder), resolution="end it with `make down`"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            for name, port in self._ports.items():
                if is_listening(port):
                    self._ports[name] = free_seaweed_port() if name == "s3" else free_port()
            (self.folder / "state.json").write_text(json.dumps(self._ports))
            yield
