"""One Prefect server for the whole run. Prefect reads its settings when it is first imported: they are set here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coreimage import logs

_HOME = Path(tempfile.mkdtemp(prefix="coreimage-prefect-"))
os.environ |= {
    "PREFECT_HOME": str(_HOME),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "coreimage",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_UI_URL": "https://prefect.example.com",
}
os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture(scope="session")
def prefect_url(_own_cache: None) -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: PLC0415

    from coreimage.services.prefect_server import prefect_server  # noqa: PLC0415
    from flows.report.runs import finish_reporting  # noqa: PLC0415

    with (
        prefect_server(_HOME, {}) as url,
        temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield url
        finish_reporting()
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _prefect(prefect_url: str, tmp_path: Path) -> Iterator[None]:
    """Each test has a result storage of its own."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings  # noqa: PLC0415

    logs.configure()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "records"}):
        yield


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Where Prefect keeps the records of the test's tasks."""
    return tmp_path / "records"
