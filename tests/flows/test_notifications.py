"""Who hears of what went wrong: a real server's automations, a receiver of webhooks, a mail server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.policy import default
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import tags
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Failed, Scheduled

from coreimage.errors import AttentionError, UsageError
from deployments.deploy import deploy_project
from flows.upkeep import check_installation
from tests.flows.test_deployments import EDGE, PROJECT
from tests.harness.receivers import mail_server, webhook
from tests.harness.workshop import wait_until

SECRET, ADDRESS_SECRET = "planted-7f3a", "token-51c9"
NOTIFICATIONS = """
notifications:
  webhook: {url_env: TEST_WEBHOOK}
  mail: {server: 127.0.0.1, port: PORT, encryption: none, sender: images@example.com,
         recipients: [team@example.com, night@example.com], user: images, password_env: TEST_MAIL_PASSWORD}
  late_after_minutes: 1
maintenance: {free_disk_gb: 1000000}
"""
_TOLD_WITHIN_S = 120.0


@dataclass
class Told:
    client: SyncPrefectClient
    webhooks: list[dict[str, Any]]
    mails: list[Message]
    file: Path

    def run(self) -> FlowRun:
        return self.client.create_flow_run_from_deployment(self.client.read_deployment_by_name(EDGE).id)

    def of(self, run: str) -> list[dict[str, Any]]:
        return [found for found in self.webhooks if found["run"] == run]

    def mails_of(self, run: FlowRun) -> list[Message]:
        return [mail for mail in self.mails if run.name in str(mail["subject"])]


@pytest.fixture(scope="module")
def told(prefect_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("told")
    (folder / "gadget").mkdir()
    with (
        pytest.MonkeyPatch.context() as environment,
        webhook() as (address, webhooks),
        mail_server("images", SECRET) as (port, mails),
        get_client(sync_client=True) as client,
    ):
        environment.setenv("TEST_WEBHOOK", f"{address}?{ADDRESS_SECRET}")
        environment.setenv("TEST_MAIL_PASSWORD", SECRET)
        file = folder / "tiny.yaml"
        file.write_text(PROJECT + NOTIFICATIONS.replace("PORT", str(port)))
        deploy_project(file, str(folder / "store"))
        yield Told(client, webhooks, mails, file)
        file.write_text(PROJECT)
        deploy_project(file, str(folder / "store"))
        assert not [found for found in client.read_automations() if ": tiny: " in found.name], "they go with the file"
        for deployment in client.read_deployments():
            if "project:tiny" in deployment.tags:
                client.delete_deployment(deployment.id)


@pytest.fixture(scope="module")
def late(told: Told) -> FlowRun:
    """A run that was due, and that no worker takes."""
    run = told.run()
    told.client.set_flow_run_state(run.id, Scheduled(scheduled_time=cast("Any", datetime.now(UTC))), force=True)
    return run


def test_a_failed_run_is_told_with_its_error_and_where_to_look(told: Told, late: FlowRun) -> None:
    run = told.run()
    message = 'key is not on this machine\n  bring "it" from where it is kept'
    told.client.set_flow_run_state(run.id, Failed(message=message), force=True)
    wait_until(lambda: bool(told.of(run.name) and told.mails_of(run)), _TOLD_WITHIN_S, "the failure")
    (document,) = told.of(run.name)
    assert document["project"] == "tiny"
    assert document["flow"] == "build-channel"
    assert document["state"] == "Failed"
    assert document["message"] == message, "quotes and line ends are kept"
    assert document["url"] == f"https://prefect.example.com/runs/flow-run/{run.id}"
    mail = told.mails_of(run)[0]
    assert "images@example.com" in str(mail["from"])
    assert "build-channel" in str(mail["subject"])
    text = mail.as_bytes(policy=default).decode()
    assert "bring" in text
    assert str(run.id) in text


def test_a_run_that_went_well_is_not_told(told: Told, late: FlowRun) -> None:
    well, failed = told.run(), told.run()
    told.client.set_flow_run_state(well.id, Completed(), force=True)
    told.client.set_flow_run_state(failed.id, Failed(message="x"), force=True)
    wait_until(lambda: bool(told.of(failed.name)), _TOLD_WITHIN_S, "the failure that came after it")
    assert told.of(well.name) == []


def test_what_the_daily_check_finds_is_told_like_any_failure(
    told: Told, late: FlowRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COREIMAGE_STORE", str(told.file.parent / "store"))
    monkeypatch.setenv("COREIMAGE_PROJECT", str(told.file))
    tagged = cast("Any", check_installation.with_options(flow_run_name="daily check"))
    with tags("coreimage", "project:tiny"), pytest.raises(AttentionError):
        tagged("tiny")
    wait_until(lambda: bool(told.of("daily check")), _TOLD_WITHIN_S, "the finding")
    (check,) = told.of("daily check")
    assert "of disk are free" in check["message"]
    assert "docs/operations.md" in check["message"]


def test_secrets_stand_nowhere_in_the_clear(told: Told, prefect_url: str) -> None:
    """Not in the database's files, and not in what the server gives to those who ask."""
    documents = told.client.read_block_documents(include_secrets=False)
    assert {"tiny-webhook", "tiny-mail"} <= {document.name for document in documents}
    said = "".join(document.model_dump_json() for document in documents)
    said += "".join(found.model_dump_json() for found in told.client.read_automations())
    said += "".join(found.model_dump_json() for found in told.client.read_deployments())
    kept = b"".join(path.read_bytes() for path in Path(os.environ["PREFECT_HOME"]).rglob("*.db*"))
    assert b"tiny-webhook" in kept
    for secret in (SECRET, ADDRESS_SECRET):
        assert secret not in said
        assert secret.encode() not in kept


def test_a_secret_that_is_not_set_is_asked_for(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_MAIL_PASSWORD")
    with pytest.raises(UsageError, match="TEST_MAIL_PASSWORD is not set"):
        deploy_project(told.file, str(told.file.parent / "store"))


def test_a_run_that_does_not_begin_is_told_a_minute_after_it_is_late(told: Told, late: FlowRun) -> None:
    wait_until(lambda: bool(told.of(late.name) and told.mails_of(late)), 2 * _TOLD_WITHIN_S, "that the run is late")
    assert told.of(late.name)[0]["state"] == "Late"
