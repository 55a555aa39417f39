from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coreimage.process import HostFacts, Sandbox, environment, explain

FINE = HostFacts(apparmor_restricts=False, max_user_namespaces=1000, subordinate_ids=True, newuidmap=True)


def test_a_host_in_order() -> None:
    assert explain(FINE, Sandbox.ROOT) is None


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
    error = explain(replace(FINE, **change), Sandbox.ROOT)
    assert error
    assert remedy in error.resolution


def test_family_needs_no_subordinate_ids() -> None:
    assert explain(replace(FINE, subordinate_ids=False, newuidmap=False), Sandbox.FAMILY) is None


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = environment({"A": "b"})
    assert "AWS_SECRET_ACCESS_KEY" not in found
    assert (found["A"], found["LC_ALL"], found["TZ"]) == ("b", "C.UTF-8", "UTC")
