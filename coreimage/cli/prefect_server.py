"""Prefect for one command: a server of our own when none is named, as a child that cannot outlive us.

Its settings are read when it is first imported, so they are set before.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from coreimage.cli.prefect_database import keep_empty_database, place_empty_database
from coreimage.errors import HostError
from coreimage.process import Child, spawn

log = structlog.get_logger("coreimage.prefect")

_API_URL = "PREFECT_API_URL"
_READY_WITHIN_S = 120.0
"""The very first start migrates an empty database: 20 to 26 s on two busy cores, more on a slow disk."""
_DATABASE = "prefect.db"
_DATABASE_URLS = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
_ATTEMPTS = 3
_POLL_S = 0.1

_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "coreimage",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_CLI_PROMPT": "false",
}
_QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}

_ONE_COMMAND = {
    "PREFECT_UI_ENABLED": "false",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # Nobody schedules or expects anything of a server that lives for one command.
    **{
        f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false"
        for service in ("SCHEDULER", "LATE_RUNS", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "FOREMAN", "TRIGGERS")
    },
}


@contextmanager
def prefect_api(folder: Path, *, debug: bool = False, meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """The API's URL, set in the environment for the block: the one that is set already, else a server of our own.

    `folder` becomes PREFECT_HOME unless that is set. To be entered before Prefect is imported, which `meanwhile` may
    do: it is called once, while our own server is starting; at worst that has to take another port than expected then.
    Raises HostError when the server does not become ready.
    """
    prefect_settings(folder, debug=debug)
    if names_server(os.environ):
        meanwhile()
        yield os.environ[_API_URL]
        return

    def started(url: str) -> None:
        os.environ[_API_URL] = url
        meanwhile()

    try:
        with server(Path(os.environ["PREFECT_HOME"]), _ONE_COMMAND, started=started) as url:
            os.environ[_API_URL] = url
            yield url
    finally:
        os.environ.pop(_API_URL, None)


def names_server(environment: Mapping[str, str]) -> bool:
    """Whether a server is named there: else a command starts its own."""
    return _API_URL in environment


def prefect_settings(folder: Path, *, debug: bool = False) -> None:
    """Sets what Prefect reads when it is imported, where the environment does not say otherwise."""
    os.environ.setdefault("PREFECT_HOME", str(folder.absolute()))
    for name, value in {**_SETTINGS, **({} if debug else _QUIET)}.items():
        os.environ.setdefault(name, value)


@contextmanager
def server(
    home: Path, settings: Mapping[str, str], *, started: Callable[[str], object] = lambda _: None
) -> Iterator[str]:
    """Prefect's server with its database below `home`, as long as the block; `settings` go before the environment's.

    `started` is called once with the URL that is expected, before the server is ready.
    """
    home.mkdir(parents=True, exist_ok=True)
    database = home / _DATABASE if _stores_at_home() else None
    migrates = database is not None and not database.exists() and not place_empty_database(database)
    last_lines: deque[str] = deque(maxlen=20)
    for attempt in range(_ATTEMPTS):
        port = free_port()
        url = f"http://127.0.0.1:{port}/api"
        with spawn(_argv(port), env=_environment(settings)) as child:
            threading.Thread(target=_drain, args=(child, home / "server.log", last_lines), daemon=True).start()
            if attempt == 0:
                started(url)
            if _ready(child, port):
                log.debug("Prefect server started", port=port, pid=child.pid)
                if database and migrates:
                    keep_empty_database(database)
                yield url
                return
    output = "".join(f"\n  | {line}" for line in last_lines)
    raise HostError(
        f"Prefect's server did not become ready{output}",
        where=str(home),
        resolution="read server.log there; or start one with `prefect server start` and set PREFECT_API_URL",
    )


def _stores_at_home() -> bool:
    return not any(name in os.environ for name in _DATABASE_URLS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _argv(port: int) -> list[str]:
    application = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error"]
    return [sys.executable, "-m", "uvicorn", *application, "--host", "127.0.0.1", "--port", str(port)]


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PREFECT_", "PYTHON"))}
    return {**kept, **settings}


def _drain(child: Child, path: Path, last_lines: deque[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for line in child.lines():
            last_lines.append(line)
            file.write(f"{line}\n")
            file.flush()


def _ready(child: Child, port: int) -> bool:
    deadline = time.monotonic() + _READY_WITHIN_S
    while child.running() and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    return False
