"""A small project, as the very user who runs the tests: root, where they run as root."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.harness.ordinary_user import ROOT_DIR
from tests.harness.workshop import Workshop, project

pytestmark = pytest.mark.timeout(1800)


def test_the_chain_works_as_the_user_who_runs_the_tests(small: Workshop) -> None:
    """`chain` is an ordinary user's run; where the tests run as root, `small` is root's own."""
    assert "small/13/edge" in small.coreimage("channel", "list").stdout
    small.coreimage("verify")


def test_a_failed_boot_leaves_the_channel_as_it_was(small: Workshop) -> None:
    before = small.store.head("system-image/channels.json.gpg")

    run = small.coreimage("--project", str(_project_that_cannot_boot(small)), "build", "small/13/edge", accept=(1,))

    assert small.store.head("system-image/channels.json.gpg") == before
    assert "nowhere" in run.stderr, "the serial console's last lines are shown"
    assert "Traceback" not in run.stderr
    small.coreimage("verify")


def _project_that_cannot_boot(workshop: Workshop) -> Path:
    """The small project, with a gadget whose kernel looks for a root that does not exist."""
    shutil.copytree(ROOT_DIR / "deployments/gadgets/generic_amd64", workshop.folder / "gadget", dirs_exist_ok=True)
    grub = workshop.folder / "gadget/grub.cfg"
    grub.write_text(grub.read_text().replace("root=LABEL=system-", "root=LABEL=nowhere-"))
    config = workshop.folder / "small.yaml"
    text = Path(project("small.yaml")).read_text()
    config.write_text(text.replace("../../deployments/gadgets/generic_amd64", "gadget"))
    return config
