"""Deploying a project file: into the store, and as deployments of a Prefect server."""

from __future__ import annotations

from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from coreimage.errors import HostError, UsageError
from coreimage.project.bundle import project_name, store_project
from coreimage.project.loading import load_project
from coreimage.storage import open_store
from deployments.apply import Change, apply
from deployments.plan import deployments
from tasks.blocks import RESULTS_BLOCK
from tasks.site import PROJECT, STORE

_RUNS = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "coreimage",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": RESULTS_BLOCK,
}
"""Settings that the runs of deployments need, however their worker was started."""


def deploy_project(project_file: Path, store_url: str, *, dry_run: bool = False) -> tuple[Change, ...]:
    """Make the deployments on the server of PREFECT_API_URL those of a project file, and return the changes.

    Args:
        project_file: The project file, which is put into the store with all files that it names.
        store_url: The store of the project's runs.
        dry_run: Change and store nothing, and only return what would be changed.

    Raises:
        ConfigError: Something is wrong in the project file.
        HostError: The server does not answer.
        UsageError: The server refuses the request.
    """
    project = load_project(project_file)
    name = project_name(project_file) if dry_run else store_project(project_file, store=open_store(store_url))
    environment = {**_RUNS, PROJECT: name, STORE: store_url}
    try:
        with get_client(sync_client=True) as client:
            return apply(project, deployments(project, environment), client=client, dry_run=dry_run)
    except httpx.TransportError as error:
        raise HostError(
            f"Prefect's server does not answer: {error}",
            where=str(PREFECT_API_URL.value()),
            resolution="start it, or correct PREFECT_API_URL",
        ) from error
    except httpx.HTTPStatusError as error:
        raise UsageError(
            f"Prefect's server refuses the request: {error.response.status_code} {error.response.text[:500]}",
            where=str(error.request.url),
            resolution="for 401, set PREFECT_API_AUTH_STRING",
        ) from error
