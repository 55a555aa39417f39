"""Prefect for one command: the server that the environment names, else one of our own that cannot outlive the command.

Prefect reads its settings when it is first imported; everything here is for before that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from coreimage.errors import HostError
from coreimage.services.ports import free_port
from coreimage.services.prefect_database import keep_empty_database, place_empty_database
from coreimage.services.service import Service, answers, becomes_ready, log_tail, running

log = structlog.get_logger("coreimage.prefect")

_API_URL = "PREFECT_API_URL"
_READY_WITHIN_S = 360.0
"""The very first start migrates an empty database: 20 to 26 s on two busy cores, minutes on an overloaded machine."""
_DATABASE_URLS = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
_ATTEMPTS = 3
"""How many servers are started where each ends by itself, as one does whose port another process took meanwhile."""

_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "coreimage",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_CLI_PROMPT": "false",
}
_QUIET_SETTINGS = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
_SETTINGS_OF_ONE_COMMAND = {
    "PREFECT_UI_ENABLED": "false",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # Nobody schedules or expects anything of a server that lives for one command.
    **{
        f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false"
        for service in ("SCHEDULER", "LATE_RUNS", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "FOREMAN", "TRIGGERS")
    },
}


def names_server(environment: Mapping[str, str]) -> bool:
    """Return whether an environment names a Prefect server; without one a command starts its own."""
    return _API_URL in environment


def set_prefect_settings(home: Path, *, debug: bool = False) -> None:
    """Set what Prefect reads when it is imported, except what the environment says already.

    Args:
        home: The PREFECT_HOME: its database, results and logs.
        debug: Let Prefect's own log lines reach the terminal.
    """
    os.environ.setdefault("PREFECT_HOME", str(home.absolute()))
    for name, value in {**_SETTINGS, **({} if debug else _QUIET_SETTINGS)}.items():
        os.environ.setdefault(name, value)


@contextmanager
def prefect_api(home: Path, *, debug: bool = False, meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Yield the URL of Prefect's API, which is also set in the environment for the block.

    Args:
        home: Becomes PREFECT_HOME unless that is set.
        debug: As `set_prefect_settings` has it.
        meanwhile: Called once, while a server of our own is starting: the place to import Prefect, which takes as long.
            The URL that it sees is the expected one; when its port is taken at that moment, the yielded one differs.

    Raises:
        HostError: Our own server does not become ready.
    """
    set_prefect_settings(home, debug=debug)
    if names_server(os.environ):
        meanwhile()
        yield os.environ[_API_URL]
        return

    def on_start(url: str) -> None:
        os.environ[_API_URL] = url
        meanwhile()

    try:
        with prefect_server(Path(os.environ["PREFECT_HOME"]), _SETTINGS_OF_ONE_COMMAND, on_start=on_start) as url:
            os.environ[_API_URL] = url
            yield url
    finally:
        os.environ.pop(_API_URL, None)


@contextmanager
def prefect_server(
    home: Path, settings: Mapping[str, str], *, on_start: Callable[[str], object] = lambda _: None
) -> Iterator[str]:
    """Run a Prefect server for the block and yield its API's URL.

    Args:
        home: The folder of its database and of `server.log`.
        settings: Environment variables of the server; they win over those of this process.
        on_start: Called once with the expected URL, while the server is starting.

    Raises:
        HostError: The server does not become ready; the message quotes its log.
    """
    home.mkdir(parents=True, exist_ok=True)
    database = None if any(name in os.environ for name in _DATABASE_URLS) else home / "prefect.db"
    migrates = database is not None and not database.exists() and not place_empty_database(database)
    inherited = {name: value for name, value in os.environ.items() if name.startswith(("PREFECT_", "PYTHON"))}
    log_path = home / "server.log"
    log_path.unlink(missing_ok=True)
    for attempt in range(_ATTEMPTS):
        port = free_port()
        service, url = _service(port, {**inherited, **settings}), _api_url(port)
        with running(service, log_path) as child:
            if attempt == 0:
                on_start(url)
            if becomes_ready(service, child, within_s=_READY_WITHIN_S):
                log.debug("Prefect server started", url=url, pid=child.pid)
                if database and migrates:
                    keep_empty_database(database)
                yield url
                return
            if child.running():
                break  # It is slow, and another one would be no faster.
    raise HostError(
        f"Prefect's server did not become ready{log_tail(log_path)}",
        where=str(home),
        resolution="read server.log there; or start one with `prefect server start` and set PREFECT_API_URL",
    )


def _service(port: int, environment: Mapping[str, str]) -> Service:
    application = ("--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error")
    return Service(
        name="prefect",
        argv=(sys.executable, "-m", "uvicorn", *application, "--host", "127.0.0.1", "--port", str(port)),
        environment=environment,
        is_ready=lambda: answers(f"{_api_url(port)}/health"),
    )


def _api_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"
