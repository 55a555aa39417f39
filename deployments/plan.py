"""What a project's file asks of Prefect: its deployments, as values. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from coreimage.config import ChannelConfig, MaintenanceConfig, Project, ScheduleConfig
from coreimage.errors import UsageError
from coreimage.model import Value
from flows.elsewhere import SPREAD

POOL = "coreimage"
MARK = "coreimage"
"""The tag of every deployment that we made, and of none that we did not."""
Queue = Literal["build", "signing"]
"""Workers of `signing` have the signing keys; workers of `build` run other people's maintainer scripts and have not."""
QUEUES: tuple[Queue, ...] = ("build", "signing")


class Deployment(Value):
    """One deployment. `choices` has the values that a parameter of the form may take, by its name.

    `environment` is added to that of the worker. A run that is asked for while another one goes on is cancelled.
    """

    flow: str
    name: str
    entrypoint: str
    queue: Queue
    description: str
    tags: tuple[str, ...]
    parameters: dict[str, Any]
    choices: dict[str, tuple[str, ...]]
    schedule: ScheduleConfig | None
    environment: dict[str, str]
    side_by_side: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.flow}/{self.name}"


def deployments(project: Project, environment: Mapping[str, str]) -> tuple[Deployment, ...]:
    """All of a project's, sorted by name. Raises UsageError when two channels would share one."""
    found = [*_of_project(project, dict(environment))]
    for name, channel in project.config.channels.items():
        found += _of_channel(project, name, channel, dict(environment))
    names = [deployment.full_name for deployment in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two channels would have the deployment {twice}", resolution="rename one of them")
    return tuple(sorted(found, key=lambda deployment: deployment.full_name))


def deployment_name(channel: str) -> str:
    """Prefect allows no `/` in it."""
    return channel.replace("/", ":")


def step_deployment(project: str) -> str:
    """Full name of the deployment that takes steps for builds."""
    return f"take-step/{project}"


def project_tag(project: str) -> str:
    return f"project:{project}"


def _of_channel(
    project: Project, name: str, channel: ChannelConfig, environment: dict[str, str]
) -> Iterator[Deployment]:
    common: dict[str, Any] = {
        "name": deployment_name(name),
        "tags": (MARK, project_tag(project.config.project), f"channel:{name}"),
        "parameters": {"channel": name},
        "environment": environment,
    }
    spread = {SPREAD: step_deployment(project.config.project)} if project.config.spread else {}
    yield Deployment(
        **{**common, "environment": {**environment, **spread}},
        flow="build-channel",
        entrypoint="flows.build.build_channel",
        queue="signing",
        description=f"Builds {name} from its archives, and releases it once it boots.",
        choices={"channel": (name,), "devices": channel.devices},
        schedule=channel.schedule,
    )
    if channel.promotion:
        yield Deployment(
            **common,
            flow="promote-channel",
            entrypoint="flows.promotion.promote_channel",
            queue="signing",
            description=f"Takes over into {name} what has stood long enough in {channel.promotion.source}.",
            choices={"channel": (name,)},
            schedule=channel.promotion.schedule,
        )
    yield Deployment(
        **common,
        flow="expire-channel",
        entrypoint="flows.upkeep.expire_channel",
        queue="signing",
        description=f"Removes what the retention of {name} gives up.",
        choices={"channel": (name,)},
        schedule=channel.retention.schedule if channel.retention else None,
    )


def _by_hand(project: Project, environment: dict[str, str]) -> Iterator[Deployment]:
    """What people start: each is a form in the UI."""
    name = project.config.project
    forms = {
        "change-tree": f"Changes channels, devices and versions of {name}: promotes, rolls back, tags and phases too.",
        "import-channel": f"Makes a channel's next version of a build of {name} that is published already.",
        "change-keys": f"Looks after the signing keys of {name}: makes, publishes, rotates, revokes, backs up.",
        "verify-tree": f"Checks all that {name} has published, as clients do.",
    }
    for flow, description in forms.items():
        yield Deployment(
            flow=flow,
            name=name,
            entrypoint=f"flows.tree.{flow.replace('-', '_')}",
            queue="signing",
            description=description,
            tags=(MARK, project_tag(name)),
            parameters={},
            choices={},
            schedule=None,
            environment=environment,
        )


def _of_project(project: Project, environment: dict[str, str]) -> Iterator[Deployment]:
    yield from _by_hand(project, environment)
    name, maintenance = project.config.project, project.config.maintenance
    if project.config.spread:
        yield Deployment(
            flow="take-step",
            name=name,
            entrypoint="flows.elsewhere.take_step",
            queue="build",
            description=f"Takes single steps of the builds of {name}; builds start it themselves.",
            tags=(MARK, project_tag(name)),
            parameters={},
            choices={},
            schedule=None,
            environment=environment,
            side_by_side=True,
        )
    for flow, function, queue, description, parameters in _upkeep(name, maintenance):
        yield Deployment(
            flow=flow,
            name=name,
            entrypoint=f"flows.upkeep.{function}",
            queue=queue,
            description=description,
            tags=(MARK, project_tag(name)),
            parameters={"project": name, **parameters},
            choices={"project": (name,)},
            schedule=maintenance.schedule,
            environment=environment,
        )


def _upkeep(name: str, maintenance: MaintenanceConfig) -> tuple[tuple[str, str, Queue, str, dict[str, Any]], ...]:
    """Flow, its function in `flows.upkeep`, queue, description and parameters of what is done every day."""
    pool, days = {"max_size": maintenance.pool_size}, {"days": maintenance.run_history_days}
    ending = f"Looks for keys of {name} that end soon, and for disks that fill up."
    return (
        ("check-installation", "check_installation", "signing", ending, {}),
        ("renew-signatures", "renew_signatures", "signing", f"Signs again what of {name} is near its end.", {}),
        ("collect-garbage", "collect_garbage", "build", f"Keeps the pool of {name} within {pool['max_size']}.", pool),
        ("forget-runs", "forget_old_runs", "build", f"Removes old runs of {name} from Prefect's server.", days),
    )
