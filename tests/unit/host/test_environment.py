from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coreimage.host.environment import HostFacts, environment, sandbox_refusal
from coreimage.host.sandbox import Sandbox

FINE = HostFacts(apparmor_restricts=False, max_user_namespaces=1000, subordinate_ids=True, newuidmap=True)


def test_a_host_in_order() -> None:
    assert sandbox_refusal(FINE, Sandbox.ROOT) is None


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"apparmor_restricts": True}, "apparmor_restrict_unprivileged_userns=0"),
        ({"max_user_namespaces": 0}, "user.max_user_namespaces="),
        ({"subordinate_ids": False}, "--add-subuids"),
        ({"newuidmap": False}, "install uidmap"),
    ],
)
def test_remedies(change: dict[str, Any], remedy: str) -> None:
    error = sandbox_refusal(replace(FINE, **change), Sandbox.ROOT)
    assert error
    assert remedy in error.resolution


def test_a_pid_namespace_needs_no_subordinate_ids() -> None:
    assert sandbox_refusal(replace(FINE, subordinate_ids=False, newuidmap=False), Sandbox.PID_NAMESPACE) is None


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = environment({"A": "b"})
    assert "AWS_SECRET_ACCESS_KEY" not in found
    assert (found["A"], found["LC_ALL"], found["TZ"]) == ("b", "C.UTF-8", "UTC")
