"""Automations of Prefect's server: they notify people of failed runs, and end runs whose machine has died.

The names of the events and the detection of such runs follow Prefect's documentation ("Detect zombie flows").
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from pydantic import SecretStr

from coreimage.errors import UsageError
from coreimage.project.config import MailConfig, NotificationsConfig, Project, WebhookConfig
from deployments.plan import MARK, project_tag
from tasks.blocks import Mail

_ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")}
_WRONG = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
_BEGUN = {f"prefect.flow-run.{state}" for state in ("Pending", "Running", "Cancelled")}
_SILENT_FOR = timedelta(seconds=120)
"""Four heartbeats."""

_SUBJECT = "{{ flow.name }} {{ flow_run.name }}: {{ flow_run.state.name }}"
_BODY = "{{ flow_run.state.message }}\n\n{{ flow_run|ui_url }}\n"
_PAYLOAD = (
    '{"project": %s, "flow": {{ flow.name|tojson }}, "run": {{ flow_run.name|tojson }}, '
    '"state": {{ flow_run.state.name|tojson }}, "message": {{ flow_run.state.message|tojson }}, '
    '"url": {{ flow_run|ui_url|tojson }}}'
)


def blocks(project: Project, environment: Mapping[str, str] = os.environ) -> dict[str, Block]:
    """Return the blocks with the addresses of notifications, by kind.

    Raises:
        UsageError: An environment variable that the project names is not set.
    """
    notifications = project.config.notifications or NotificationsConfig()
    by_kind: dict[str, Block] = {}
    if notifications.webhook:
        by_kind["webhook"] = Webhook(method="POST", url=SecretStr(_address(notifications.webhook, environment)))
    if notifications.mail:
        by_kind["mail"] = _mail(notifications.mail, environment)
    return by_kind


def automations(project: Project, saved: Mapping[str, UUID]) -> tuple[AutomationCore, ...]:
    """Return the automations of a project.

    Args:
        project: The project.
        saved: The ids of the blocks with the addresses, by kind; empty when nobody is notified.
    """
    name = project.config.project
    late_after = timedelta(minutes=(project.config.notifications or NotificationsConfig()).late_after_minutes)
    wanted = [_zombies()]
    if saved:
        wanted.append(_automation(f"{MARK}: {name}: a run failed", _trigger(name, expect=_WRONG), _tell(name, saved)))
        late = _trigger(name, after={"prefect.flow-run.Late"}, expect=_BEGUN, within=late_after)
        wanted.append(_automation(f"{MARK}: {name}: a run did not start in time", late, _tell(name, saved)))
    return tuple(wanted)


def _zombies() -> AutomationCore:
    """Return the automation that ends runs whose machine died: they would block further runs of their deployment."""
    heartbeat, begun = "prefect.flow-run.heartbeat", "prefect.flow-run.Running"
    # A machine may die before the first heartbeat, too.
    trigger = _trigger("", after={begun, heartbeat}, expect={heartbeat, *_ENDED}, within=_SILENT_FOR)
    crashed = ChangeFlowRunState(state="CRASHED", message="nothing was heard of this run any more: retry it")
    return _automation(f"{MARK}: a run's machine is gone", trigger, [crashed])


def _trigger(project: str, **conditions: Any) -> EventTrigger:
    tag = project_tag(project) if project else MARK
    of_ours = ResourceSpecification({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"})
    return EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=of_ours,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive if "after" in conditions else Posture.Reactive,
        threshold=1,
        **conditions,
    )


def _automation(name: str, trigger: EventTrigger, actions: list[Any]) -> AutomationCore:
    return AutomationCore(name=name, trigger=trigger, actions=actions)


def _tell(project: str, saved: Mapping[str, UUID]) -> list[Any]:
    actions: list[Any] = []
    if "webhook" in saved:
        actions.append(CallWebhook(block_document_id=saved["webhook"], payload=_PAYLOAD % json.dumps(project)))
    if "mail" in saved:
        actions.append(SendNotification(block_document_id=saved["mail"], subject=_SUBJECT, body=_BODY))
    return actions


def _address(webhook: WebhookConfig, environment: Mapping[str, str]) -> str:
    return webhook.url or _secret(webhook.url_env, environment)


def _mail(mail: MailConfig, environment: Mapping[str, str]) -> Mail:
    return Mail(
        server=mail.server,
        port=mail.port,
        encryption=mail.encryption,
        sender=mail.sender,
        recipients=list(mail.recipients),
        user=mail.user,
        password=SecretStr(_secret(mail.password_env, environment) if mail.password_env else ""),
    )


def _secret(variable: str, environment: Mapping[str, str]) -> str:
    if variable not in environment:
        raise UsageError(
            f"the environment variable {variable} is not set",
            where="notifications",
            resolution="set it where the deployments are made; the value goes into a block of Prefect's server",
        )
    return environment[variable]
