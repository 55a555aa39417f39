"""Applying a project to a Prefect server: its deployments, automations and blocks, and the work pool that they need.

Applied again, nothing changes. A schedule that somebody paused in the UI stays paused; deployments that are not ours,
or of another project, are left alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from coreimage.model import Value
from coreimage.project.config import Project
from deployments.notifications import automations, blocks
from deployments.plan import MARK, POOL, QUEUES, Deployment, project_tag
from tasks.blocks import RESULTS_BLOCK, ArtifactResults

_SLUG = "schedule"
_READ_AT_ONCE = 200


class Change(Value):
    """One change of a deployment or an automation; `details` has the differences as `from → to`."""

    action: Literal["create", "update", "remove"]
    name: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.action} {self.name}", *(f"  {detail}" for detail in self.details)])


def apply(
    project: Project,
    wanted: Sequence[Deployment],
    *,
    client: SyncPrefectClient,
    dry_run: bool = False,
) -> tuple[Change, ...]:
    """Make the server's deployments, automations and blocks those of a project.

    Args:
        project: The project.
        wanted: The deployments of the project.
        client: The client of the server.
        dry_run: Change nothing, and only return what would be changed.

    Returns:
        The changes; empty when the server is up to date.
    """
    if not dry_run:
        _infrastructure(client)
    changes = [*_deployments(project.config.project, wanted, client, dry_run)]
    changes += _automations(project, client, dry_run)
    return tuple(changes)


def _deployments(project: str, wanted: Sequence[Deployment], client: SyncPrefectClient, dry_run: bool) -> list[Change]:
    flows = {flow.id: flow.name for flow in client.read_flows()}
    existing = {f"{flows.get(old.flow_id)}/{old.name}": old for old in _ours(project, client)}
    changes = []
    for deployment in wanted:
        old = existing.pop(deployment.full_name, None)
        details = differences(described(old), shape(deployment)) if old else ()
        if old and not details:
            continue
        changes.append(Change(action="update" if old else "create", name=deployment.full_name, details=details))
        if not dry_run:
            _put(deployment, old, client)
    for name, surplus in sorted(existing.items()):
        changes.append(Change(action="remove", name=name))
        if not dry_run:
            client.delete_deployment(surplus.id)
    return changes


def _ours(project: str, client: SyncPrefectClient) -> list[DeploymentResponse]:
    of_project = DeploymentFilter(tags=DeploymentFilterTags(all_=[MARK, project_tag(project)]))
    ours: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=of_project, limit=_READ_AT_ONCE, offset=len(ours)):
        ours += page
    return ours


def shape(deployment: Deployment) -> dict[str, Any]:
    """Return the wanted facts of a deployment, in the form in which `described` returns the present ones."""
    return {
        "entrypoint": deployment.entrypoint,
        "queue": deployment.queue,
        "description": deployment.description,
        "tags": sorted(deployment.tags),
        "parameters": deployment.parameters,
        "form": form(deployment),
        "cron": deployment.schedule.cron if deployment.schedule else None,
        "timezone": deployment.schedule.timezone if deployment.schedule else None,
        "environment": deployment.environment,
        "side by side": deployment.side_by_side,
    }


def described(deployment: DeploymentResponse) -> dict[str, Any]:
    """Return the facts of a deployment of the server, in the form of `shape`."""
    crons = [schedule.schedule for schedule in deployment.schedules if isinstance(schedule.schedule, CronSchedule)]
    return {
        "entrypoint": deployment.entrypoint,
        "queue": deployment.work_queue_name,
        "description": deployment.description,
        "tags": sorted(deployment.tags),
        "parameters": deployment.parameters,
        "form": deployment.parameter_openapi_schema,
        "cron": crons[0].cron if crons else None,
        "timezone": crons[0].timezone if crons else None,
        "environment": deployment.job_variables.get("env", {}),
        "side by side": deployment.global_concurrency_limit is None,
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one line for each fact that changes; a form is too long to be shown."""
    return tuple(
        f"{name} changes" if name == "form" else f"{name}: {old[name]} → {new[name]}"
        for name in new
        if old[name] != new[name]
    )


def form(deployment: Deployment) -> dict[str, Any]:
    """Return the parameters as JSON Schema, which the UI shows as a form and the server validates."""
    schema = parameter_schema(_flow(deployment)).model_dump(mode="json", exclude_none=True)
    places = [name for name in schema["properties"] if name in _WORKERS]
    for name in places:
        del schema["properties"][name]
    for name, values in deployment.choices.items():
        target = schema["properties"][name]
        (target["items"] if target.get("type") == "array" else target)["enum"] = list(values)
        if target.get("type") == "array":
            target["uniqueItems"] = True
    for name, values in deployment.suggestions.items():
        target = schema["properties"][name]
        del target["type"]
        offered = {"title": "of the project file", "type": "string", "enum": list(values)}
        target["anyOf"] = [offered, {"title": "another", "type": "string"}]
    return schema


_WORKERS = ("project_file", "store_url", "keys_folder")
"""Parameters that only the command line sets; the runs of a deployment use the environment of their worker."""


def _flow(deployment: Deployment) -> Flow[..., Any]:
    module, _, name = deployment.entrypoint.rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)  # noqa: S101
    return flow


def _put(deployment: Deployment, old: DeploymentResponse | None, client: SyncPrefectClient) -> None:
    values: dict[str, Any] = {
        "description": deployment.description,
        "tags": list(deployment.tags),
        "parameters": deployment.parameters,
        "entrypoint": deployment.entrypoint,
        "work_pool_name": POOL,
        "work_queue_name": deployment.queue,
        "job_variables": {"env": deployment.environment, "stream_output": False},
        "parameter_openapi_schema": form(deployment),
        "enforce_parameter_schema": True,
        "concurrency_limit": None if deployment.side_by_side else 1,
    }
    alone = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    options = None if deployment.side_by_side else alone
    if old is None:
        flow_id = client.create_flow(_flow(deployment))
        old = client.read_deployment(
            client.create_deployment(flow_id, deployment.name, concurrency_options=options, pull_steps=[], **values)
        )
    else:
        client.update_deployment(old.id, DeploymentUpdate(concurrency_options=options, **values))
    _schedule(deployment, old, client)


def _schedule(deployment: Deployment, existing: DeploymentResponse, client: SyncPrefectClient) -> None:
    """Make the schedule of a deployment the wanted one, changed in place so that a paused schedule stays paused."""
    schedule = deployment.schedule
    wanted = CronSchedule(cron=schedule.cron, timezone=schedule.timezone) if schedule else None
    kept = existing.schedules[0] if existing.schedules else None
    for surplus in existing.schedules if wanted is None else existing.schedules[1:]:
        client.delete_deployment_schedule(existing.id, surplus.id)
    if wanted and kept:
        client.update_deployment_schedule(existing.id, kept.id, schedule=wanted)
    elif wanted:
        created = DeploymentScheduleCreate(schedule=wanted, active=True, slug=_SLUG)
        client.create_deployment_schedules(existing.id, [created])


def _infrastructure(client: SyncPrefectClient) -> None:
    """Create the work pool with its queues, and the block that keeps results in the store, where they are missing."""
    pool = WorkPoolCreate(
        name=POOL,
        type="process",
        base_job_template=ProcessWorker.get_default_base_job_template(),
        description="Builds, signs and looks after images",
    )
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
    for queue in QUEUES:
        try:
            client.read_work_queue_by_name(queue, work_pool_name=POOL)
        except ObjectNotFound:
            client.create_work_queue(queue, work_pool_name=POOL)
    slug, _, name = RESULTS_BLOCK.partition("/")
    if _block_id(slug, name, client) is None:
        ArtifactResults(store_url="").save(name)


def _automations(project: Project, client: SyncPrefectClient, dry_run: bool) -> list[Change]:
    name = project.config.project
    existing = {old.name: old for old in client.read_automations() if old.name.startswith(f"{MARK}: {name}: ")}
    if not dry_run:
        for kind, block in blocks(project).items():
            block.save(f"{name}-{kind}", overwrite=True)
    saved = {kind: _block_id(kind, f"{name}-{kind}", client) or UUID(int=0) for kind in blocks(project)}
    changes = []
    for wanted in automations(project, saved):
        old = existing.pop(wanted.name, None) or next(iter(client.read_automations_by_name(wanted.name)), None)
        if old and _same(old, wanted):
            continue
        changes.append(Change(action="update" if old else "create", name=wanted.name))
        if not dry_run:
            client.update_automation(old.id, wanted) if old else client.create_automation(wanted)
    for old_name, old in sorted(existing.items()):
        changes.append(Change(action="remove", name=old_name))
        if not dry_run:
            client.delete_automation(old.id)
    return changes


def _same(old: AutomationCore, wanted: AutomationCore) -> bool:
    def comparable(automation: AutomationCore) -> dict[str, Any]:
        # Not as JSON: triggers have sets, whose order is another one in every process.
        document = automation.model_dump(include={"description", "trigger", "actions"})
        document["trigger"].pop("id", None)
        return document

    return comparable(old) == comparable(wanted)


def _block_id(slug: str, name: str, client: SyncPrefectClient) -> UUID | None:
    try:
        return client.read_block_document_by_name(name, slug, include_secrets=False).id
    except ObjectNotFound:
        return None
