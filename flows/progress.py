"""How far a run is, as Prefect's UI shows it: its name, and a bar."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

_NAMED_DEVICES = 3


class Progress:
    """A bar over `expected` steps. It is there once a step really runs: a run that finds all remembered needs none."""

    def __init__(self, expected: int) -> None:
        self._expected, self._done = expected, 0
        self._artifact: UUID | None = None

    def advance(self) -> None:
        self._done += 1

    def show(self, title: str) -> None:
        """What is being done now."""
        if not self._expected or FlowRunContext.get() is None:
            return
        percent = min(100 * self._done / self._expected, 99.0)
        if self._artifact is None:
            self._artifact = cast("UUID", create_progress_artifact(percent, description=title))
        else:
            update_progress_artifact(self._artifact, percent, description=title)

    def finish(self, description: str) -> None:
        if self._artifact:
            update_progress_artifact(self._artifact, 100.0, description=description)


def run_name(channel: str, devices: tuple[str, ...], build_id: str) -> str:
    """`debian-core/13/edge generic_amd64 20261123.1`."""
    named = " ".join(devices) if len(devices) <= _NAMED_DEVICES else f"{len(devices)} devices"
    return f"{channel} {named} {build_id}"


def name_run(name: str) -> None:
    """Renames the flow run that we are in."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, name=name)
