"""amd64 and arm64 in one run of a channel: really built, emulated, published, assembled and booted side by side."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.archive import TestKey
from tests.harness.two import two_archive, two_project
from tests.harness.workshop import Workshop

CHANNEL = "two/1/edge"
ONLY_NATIVE = '#!/bin/sh\nset -e\necho "built on $(uname -m)"\n[ "$(uname -m)" = x86_64 ]\necho yes > /etc/hooked\n'

pytestmark = pytest.mark.timeout(1800)


@dataclass(frozen=True)
class Two:
    workshop: Workshop
    project: Path
    first: dict[str, Any]

    def build(self) -> dict[str, Any]:
        return self.workshop.result("--project", str(self.project), "build", CHANNEL)

    def published(self, result: dict[str, Any]) -> dict[str, str]:
        """SHA-256 by name."""
        text = self._read(f"{result['build_id']}/SHA256SUMS").decode()
        return {line.split(" *")[1]: line.split(" *")[0] for line in text.splitlines()}

    def info(self, result: dict[str, Any]) -> dict[str, Any]:
        document = json.loads(self._read(f"{result['build_id']}/build.json"))
        assert isinstance(document, dict)
        return document

    def _read(self, name: str) -> bytes:
        with self.workshop.store.open(f"cdimage/two/1/daily-preinstalled/{name}") as file:
            return file.read()


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    folder = Path(tempfile.mkdtemp(prefix="two-"))
    folder.chmod(0o755)
    key = TestKey.make(folder / "key", "two")
    archive = two_archive(folder / "archive", key, folder / "work")
    home = folder / "home"
    home.mkdir()
    workshop, project = Workshop(home), two_project(folder, archive)
    first = workshop.result("--project", str(project), "build", CHANNEL)
    yield Two(workshop, project, first)
    key.close()
    shutil.rmtree(folder)


def test_both_are_released_after_booting(two: Two) -> None:
    boots = {device["device"]: device["boots"] for device in two.first["devices"]}
    assert set(boots) == {"generic_amd64", "generic_arm64"}
    assert all(boot["passed"] and boot["firmware"] == "uefi" for reports in boots.values() for boot in reports)
    with two.workshop.store.open(boots["generic_arm64"][0]["serial_log"]) as file:
        log = file.read()
    assert b"console=ttyAMA0" in log
    assert b"root=LABEL=system-a ro" in log
    names = set(two.published(two.first))
    for architecture in ("amd64", "arm64"):
        assert {f"two-preinstalled-core-{architecture}{end}" for end in (".tar.gz", ".device.tar.gz", ".log")} <= names
    two.workshop.coreimage("verify")


def test_each_has_a_log_of_its_own(two: Two) -> None:
    logs = {found["architecture"]: found["log"] for found in two.first["architectures"]}
    with two.workshop.store.open(logs["arm64"]) as file:
        text = file.read().decode()
    assert "Building the rootfs for arm64" in text
    assert "Building the rootfs for amd64" not in text


def test_a_failed_best_effort_architecture_keeps_what_it_had(two: Two) -> None:
    before = two.published(two.first)
    (two.project.parent / "hook.sh").write_text(ONLY_NATIVE)
    two.project.write_text(two.project.read_text().replace("hooks: []", "hooks: [hook.sh]"))

    result = two.build()

    assert [(device["device"], device["version"]) for device in result["devices"]] == [("generic_amd64", 2)]
    (failed,) = [found for found in result["architectures"] if found["failure"]]
    assert failed["architecture"] == "arm64"
    assert "built on aarch64" in failed["failure"]
    after, info = two.published(result), two.info(result)
    arm64 = {name for name in before if "-arm64." in name}
    assert {name: after[name] for name in arm64} == {name: before[name] for name in arm64}
    assert after["two-preinstalled-core-amd64.tar.gz"] != before["two-preinstalled-core-amd64.tar.gz"]
    assert info["architectures"] == ["amd64"]
    assert [(carried["architecture"], carried["build_id"]) for carried in info["carried"]] == [
        ("arm64", two.first["build_id"])
    ]
    two.workshop.coreimage("verify")
