"""A flow that is due every minute, deployed as ours are: `python -m tests.operate.often`."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow
from prefect.client.orchestration import get_client

from coreimage.project.config import ScheduleConfig
from coreimage.project.loading import load_project
from deployments.apply import apply
from deployments.plan import MARK, Deployment
from flows.running.schedule import drop_missed

NAME = "often/every-minute"
REPOSITORY = Path(__file__).parents[2]
TAKES_S = 5.0


@flow(name="often", on_running=[drop_missed])
def often() -> None:
    """Takes a while, but far less than a minute."""
    time.sleep(TAKES_S)


def deploy() -> None:
    flow_name, _, name = NAME.partition("/")
    wanted = Deployment(
        flow=flow_name,
        name=name,
        entrypoint="tests.operate.often.often",
        queue="build",
        description="Is due every minute.",
        tags=(MARK, "project:often"),
        parameters={},
        choices={},
        schedule=ScheduleConfig(cron="* * * * *"),
        # Only what is installed can be imported where a run starts, and the tests are not.
        environment={"PYTHONPATH": str(REPOSITORY)},
    )
    project = load_project(REPOSITORY / "deployments/debian-core.yaml")
    with get_client(sync_client=True) as client:
        apply(project, [wanted], client=client)


if __name__ == "__main__":
    deploy()
