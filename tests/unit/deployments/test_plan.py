"""Where flows run: workers of `build` run other people's maintainer scripts, and must never need a signing key."""

from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.project.config import PromotionConfig, ScheduleConfig
from coreimage.project.loading import load_project
from deployments.plan import deployments
from flows.running.remote import TASKS

ROOT = Path(__file__).parents[3]
WITHOUT_KEYS = {"collect-garbage", "forget-runs", "run-task"}


@pytest.mark.parametrize("project", sorted((ROOT / "deployments").glob("*.yaml")), ids=lambda path: path.stem)
def test_only_flows_that_sign_nothing_are_in_the_queue_without_keys(project: Path) -> None:
    planned = deployments(load_project(project), {})
    assert {deployment.flow for deployment in planned if deployment.queue == "build"} <= WITHOUT_KEYS
    assert "build-channel" in {deployment.flow for deployment in planned if deployment.queue == "signing"}


def test_a_promotion_signs_where_the_keys_are() -> None:
    project = load_project(ROOT / "deployments/debian-core.yaml")
    channels = dict(project.config.channels)
    source = next(iter(channels))
    promotion = PromotionConfig(source=source, schedule=ScheduleConfig(cron="0 3 * * *"))
    channels["debian-core/13/late"] = channels[source].model_copy(update={"promotion": promotion})
    config = project.config.model_copy(update={"channels": channels})
    planned = deployments(project.model_copy(update={"config": config}), {})
    (deployment,) = [each for each in planned if each.flow == "promote-channel" and each.name == "debian-core:13:late"]
    assert (deployment.queue, deployment.parameters) == ("signing", {"channel": "debian-core/13/late"})
    assert {each.flow for each in planned if each.queue == "build"} <= WITHOUT_KEYS


def test_no_task_that_signs_is_run_by_other_workers() -> None:
    """An image is assembled where the checksums of its build are signed."""
    assert set(TASKS) == {"build-rootfs", "build-device", "boot-test"}
