"""The whole chain, killed in every stage: nothing goes on running, nothing is half there, the next run goes on."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.workshop import Workshop, family, kill_and_see_all_gone, project, wait_until

CHANNEL = "small/13/edge"
_STAGE_WITHIN_S = 600.0

STAGES = [
    ("probe-archives", None),
    ("plan-packages", "apt-get"),
    ("build-rootfs", "mmdebstrap"),
    ("build-rootfs", "dpkg"),
    ("build-device", "mkinitramfs"),
    ("publish-build", None),
    ("import-build", "xz"),
    ("assemble-image", "mke2fs"),
    ("boot-test", "qemu-system-x86"),
    ("release-candidate", None),
]
"""Each stage, and the process in whose midst it is killed; None: as soon as the stage has begun."""

_PAIR = re.compile(r"(channels\.json|.*/index\.json)(\.asc)?")

pytestmark = pytest.mark.timeout(1800)


def test_killed_in_every_stage_the_chain_goes_on_from_there(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    for stage, program in STAGES:
        with workshop.started("--debug", "--project", project("small.yaml"), "build", CHANNEL) as run:
            wait_until(lambda: _reached(workshop, run, stage, program), _STAGE_WITHIN_S, f"{program} in {stage}")  # noqa: B023
            kill_and_see_all_gone(run)
        _nothing_is_half_there(workshop)

    result = workshop.result("--project", project("small.yaml"), "build", CHANNEL)

    anew = [step["name"] for step in result["steps"] if not step["cached"]]
    assert set(anew) <= {"boot-test", "release-candidate", "mark-good", "write-pages"}, anew
    assert result["devices"][0]["version"] == 1
    builds = {key.split("/")[4] for key in _keys(workshop, "cdimage/") if key.endswith("SHA256SUMS")}
    assert builds == {result["build_id"]}
    workshop.coreimage("verify")


def _reached(workshop: Workshop, run: subprocess.Popen[str], stage: str, program: str | None) -> bool:
    assert run.poll() is None, f"ended before {stage} was killed:\n{workshop.said()}"
    if f"key={stage}-" not in workshop.said() and stage != "probe-archives":
        return False
    if stage == "probe-archives" and "building" not in workshop.said():
        return False
    return program is None or any(name.startswith(program[:15]) for name in family(run.pid).values())


def _nothing_is_half_there(workshop: Workshop) -> None:
    """What readers look at is whole: a build that has its marker, a channel that verifies.

    Of 2015's pairs a kill may leave one half written: each is two objects. The next command heals them.
    """
    if not (workshop.folder / "var/store").exists():
        return
    assert not list(workshop.folder.glob("*.img*"))
    if any(_keys(workshop, "system-image/channels.json.gpg")):
        findings = json.loads(workshop.coreimage("--json", "verify", accept=(0, 3)).stdout)["findings"]
        errors = [each for each in findings if each["severity"] == "error"]
        assert not [each for each in errors if not _PAIR.fullmatch(each["where"])], errors


def _keys(workshop: Workshop, prefix: str) -> list[str]:
    return [info.key for info in workshop.store.list(prefix)]
