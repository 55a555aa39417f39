"""The whole Debian product for arm64, emulated from its first package to its login prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.ordinary_user import ROOT_DIR
from tests.harness.workshop import Workshop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def test_debian_for_arm64_boots(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    file = str(ROOT_DIR / "deployments/debian-core.yaml")

    result = workshop.result("--project", file, "build", "debian-core/13/all", "--device", "generic_arm64")

    (device,) = result["devices"]
    (boot,) = device["boots"]
    assert (device["device"], boot["firmware"], boot["passed"]) == ("generic_arm64", "uefi", True)
    with workshop.store.open(boot["serial_log"]) as log:
        assert b"debian-core login:" in log.read()
    workshop.coreimage("verify")
