"""The deployments of a project as values. No server is asked here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from prefect import Flow
from pydantic import Field

from coreimage.errors import UsageError
from coreimage.logs import decimal_size
from coreimage.model import Value
from coreimage.project.config import ChannelConfig, Project, ScheduleConfig
from flows import changes, keys, upkeep
from flows.build import build_channel
from flows.promotion import promote_channel
from flows.running.remote import REMOTE_TASKS, run_task
from flows.verify import verify_tree

POOL = "coreimage"
MARK = "coreimage"
"""The tag of every deployment that coreimage made, and of no other."""
Queue = Literal["build", "signing"]
"""Workers of `signing` have the signing keys. Workers of `build` run maintainer scripts of packages, and have none."""
QUEUES: tuple[Queue, ...] = ("build", "signing")

BY_HAND: tuple[Flow[..., Any], ...] = (
    changes.create_channel,
    changes.remove_channel,
    changes.rename_channel,
    changes.hide_channel,
    changes.show_channel,
    changes.alias_channel,
    changes.redirect_channel,
    changes.create_device,
    changes.remove_device,
    changes.set_keyring,
    changes.promote_version,
    changes.roll_back,
    changes.tag_version,
    changes.phase_version,
    changes.import_channel,
    keys.create_keys,
    keys.publish_keyrings,
    keys.rotate_key,
    keys.revoke_key,
    keys.sign_anew,
    keys.back_up_keys,
    verify_tree,
)
"""The flows that people start by hand, each by a form in the UI."""


class Deployment(Value):
    """One deployment.

    Attributes:
        choices: The only values that a parameter of the form may take, by its name.
        suggestions: The values that a parameter of the form offers besides any other, by its name.
        environment: Variables that are added to the environment of the worker.
        side_by_side: Whether runs may go on at the same time; otherwise a further run is cancelled.
    """

    flow: str
    name: str
    entrypoint: str
    queue: Queue
    description: str
    tags: tuple[str, ...]
    parameters: dict[str, Any] = Field(default_factory=dict)
    choices: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    suggestions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    schedule: ScheduleConfig | None = None
    environment: dict[str, str]
    side_by_side: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.flow}/{self.name}"


def deployments(project: Project, environment: Mapping[str, str]) -> tuple[Deployment, ...]:
    """Return all deployments of a project, sorted by name.

    Args:
        project: The project.
        environment: Variables that are added to the environment of the workers.

    Raises:
        UsageError: Two channels would share a deployment.
    """
    wanted = [*_by_hand(project, dict(environment)), *_of_project(project, dict(environment))]
    for name, channel in project.config.channels.items():
        wanted += _of_channel(project, name, channel, dict(environment))
    names = [deployment.full_name for deployment in wanted]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two channels would have the deployment {twice}", resolution="rename one of them")
    return tuple(sorted(wanted, key=lambda deployment: deployment.full_name))


def deployment_name(channel: str) -> str:
    """Return the name of a channel's deployments: Prefect allows no `/` in it."""
    return channel.replace("/", ":")


def project_tag(project: str) -> str:
    return f"project:{project}"


def entrypoint(flow: Flow[..., Any]) -> str:
    """Return where a worker finds a flow: its module and function."""
    return f"{flow.fn.__module__}.{flow.fn.__name__}"


def _of_channel(
    project: Project, channel: str, config: ChannelConfig, environment: dict[str, str]
) -> Iterator[Deployment]:
    name, tags = deployment_name(channel), (MARK, project_tag(project.config.project), f"channel:{channel}")
    remote = {REMOTE_TASKS: f"{run_task.name}/{project.config.project}"} if project.config.remote_tasks else {}
    yield Deployment(
        flow=build_channel.name,
        name=name,
        entrypoint=entrypoint(build_channel),
        queue="signing",
        description=f"Build {channel} from its archives, and release it once its images boot.",
        tags=tags,
        parameters={"channel": channel},
        choices={"channel": (channel,), "devices": config.devices},
        schedule=config.schedule,
        environment={**environment, **remote},
    )
    if config.promotion:
        yield Deployment(
            flow=promote_channel.name,
            name=name,
            entrypoint=entrypoint(promote_channel),
            queue="signing",
            description=f"Promote versions of {config.promotion.source} to {channel} once they are old enough.",
            tags=tags,
            parameters={"channel": channel},
            choices={"channel": (channel,)},
            schedule=config.promotion.schedule,
            environment=environment,
        )
    yield Deployment(
        flow=upkeep.expire_channel.name,
        name=name,
        entrypoint=entrypoint(upkeep.expire_channel),
        queue="signing",
        description=f"Remove what the retention of {channel} gives up.",
        tags=tags,
        parameters={"channel": channel},
        choices={"channel": (channel,)},
        schedule=config.retention.schedule if config.retention else None,
        environment=environment,
    )


def _by_hand(project: Project, environment: dict[str, str]) -> Iterator[Deployment]:
    name, devices = project.config.project, tuple(project.config.devices)
    channels = tuple(project.config.channels)
    suggestions = {"channel": channels, "source": channels, "target": channels, "device": devices}
    for flow in BY_HAND:
        parameters = inspect.signature(flow.fn).parameters
        yield Deployment(
            flow=flow.name,
            name=name,
            entrypoint=entrypoint(flow),
            queue="signing",
            description=(flow.description or "").partition("\n\n")[0],
            tags=(MARK, project_tag(name)),
            choices={"devices": devices} if "devices" in parameters else {},
            suggestions={key: values for key, values in suggestions.items() if key in parameters},
            environment=environment,
        )


def _of_project(project: Project, environment: dict[str, str]) -> Iterator[Deployment]:
    name, maintenance = project.config.project, project.config.maintenance
    tags = (MARK, project_tag(name))
    if project.config.remote_tasks:
        yield Deployment(
            flow=run_task.name,
            name=name,
            entrypoint=entrypoint(run_task),
            queue="build",
            description=f"Run single tasks of the builds of {name}; builds start it themselves.",
            tags=tags,
            environment=environment,
            side_by_side=True,
        )
    ending = f"Look for keys of {name} that expire soon, and for disks that fill up."
    signing = f"Publish again the keyrings of {name} that expire soon, and sign again what former keys signed."
    garbage = f"Keep the packages and artifacts of {name} within {decimal_size(maintenance.pool_size)}."
    runs = f"Remove old runs of {name} from Prefect's server."
    daily: tuple[tuple[Flow[..., Any], Queue, str, dict[str, Any]], ...] = (
        (upkeep.check_installation, "signing", ending, {}),
        (upkeep.renew_signatures, "signing", signing, {}),
        (upkeep.collect_garbage, "build", garbage, {"max_size": maintenance.pool_size}),
        (upkeep.forget_old_runs, "build", runs, {"days": maintenance.run_history_days}),
    )
    for flow, queue, description, parameters in daily:
        yield Deployment(
            flow=flow.name,
            name=name,
            entrypoint=entrypoint(flow),
            queue=queue,
            description=description,
            tags=tags,
            parameters={"project": name, **parameters},
            choices={"project": (name,)},
            schedule=maintenance.schedule,
            environment=environment,
        )
