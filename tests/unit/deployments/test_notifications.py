"""Who is told of what: the automations, as values. tests/flows sees them work on a real server."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from coreimage.project.loading import load_project
from deployments.notifications import automations

ROOT = Path(__file__).parents[3]
PROJECT = load_project(ROOT / "deployments/debian-core.yaml")
EVENT = "prefect.flow-run."


def trigger(automation: AutomationCore) -> EventTrigger:
    assert isinstance(automation.trigger, EventTrigger)
    return automation.trigger


def test_every_way_in_which_a_run_goes_wrong_is_told_once_for_the_projects_own_runs() -> None:
    told = [
        automation
        for automation in automations(PROJECT, {"mail": uuid4(), "webhook": uuid4()})
        if not isinstance(automation.actions[0], ChangeFlowRunState)
    ]
    expected = [event for automation in told for event in trigger(automation).expect if not trigger(automation).after]
    assert sorted(expected) == [f"{EVENT}Crashed", f"{EVENT}Failed", f"{EVENT}TimedOut"]
    for automation in told:
        assert [action.type for action in automation.actions] == ["call-webhook", "send-notification"]
        assert "prefect.tag.project:debian-core" in str(trigger(automation).match_related)


def test_a_late_run_is_told_unless_it_begins_or_is_given_up() -> None:
    (late,) = [each for each in automations(PROJECT, {"mail": uuid4()}) if f"{EVENT}Late" in trigger(each).after]
    assert trigger(late).expect == {f"{EVENT}Pending", f"{EVENT}Running", f"{EVENT}Cancelled"}


def test_a_run_that_is_heard_of_no_more_has_crashed_also_where_nobody_is_told() -> None:
    (silent,) = automations(PROJECT, {})
    (action,) = silent.actions
    assert isinstance(action, ChangeFlowRunState)
    assert action.state == "CRASHED"
    assert trigger(silent).after == {f"{EVENT}Running", f"{EVENT}heartbeat"}
    ended = {"Completed", "Failed", "Crashed", "Cancelled", "TimedOut"}
    assert trigger(silent).expect == {f"{EVENT}heartbeat", *(f"{EVENT}{state}" for state in ended)}
