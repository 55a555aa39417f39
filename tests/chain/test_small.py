"""A small project, as the very user who runs the tests: root, where they run as root."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coreimage.host.process import run
from tests.harness.disk import debugfs
from tests.harness.ordinary_user import ROOT_DIR
from tests.harness.workshop import Workshop, project

pytestmark = pytest.mark.timeout(1800)


def test_the_chain_works_as_the_user_who_runs_the_tests(small: Workshop) -> None:
    """`chain` is an ordinary user's run; where the tests run as root, `small` is root's own."""
    assert "small/13/edge" in small.coreimage("channel", "list").stdout
    small.coreimage("verify")


def test_a_failed_boot_leaves_the_channel_as_it_was(small: Workshop) -> None:
    before = small.store.head("system-image/channels.json.gpg")

    failed = small.coreimage("--project", str(_project_that_cannot_boot(small)), "build", "small/13/edge", accept=(1,))

    assert small.store.head("system-image/channels.json.gpg") == before
    assert "nowhere" in failed.stderr, "the serial console's last lines are shown"
    assert "Traceback" not in failed.stderr
    small.coreimage("verify")


def test_its_custom_tarball_is_in_the_image_that_was_booted_and_in_one_from_the_channel(small: Workshop) -> None:
    query = small.coreimage("--json", "query", "--show-image", "--channel", "small/13/edge").stdout
    assert f"custom={json.loads(query)['version_detail'].split('ubuntu=')[1].split(',')[0]}" in query
    (released,) = (small.folder / "var/store/images").rglob("*.img.zst")
    booted = small.folder / "booted.img"
    run(["zstd", "-dqf", released, "-o", booted])
    small.coreimage("flash", "core", "13", "--channel", "small/13/edge", "--output", "flashed.img", "--no-bmap")
    for image in (booted, small.folder / "flashed.img"):
        assert "of the small project" in debugfs(image, "system-a", "cat /usr/share/brand/name")


def _project_that_cannot_boot(workshop: Workshop) -> Path:
    """The small project, with a gadget whose kernel looks for a root that does not exist."""
    shutil.copytree(ROOT_DIR / "deployments/gadgets/generic_amd64", workshop.folder / "gadget", dirs_exist_ok=True)
    grub = workshop.folder / "gadget/grub.cfg"
    grub.write_text(grub.read_text().replace("root=LABEL=system-", "root=LABEL=nowhere-"))
    config = workshop.folder / "small.yaml"
    text = Path(project("small.yaml")).read_text()
    text = text.replace("overlay: brand", f"overlay: {ROOT_DIR / 'tests/projects/brand'}")
    config.write_text(text.replace("../../deployments/gadgets/generic_amd64", "gadget"))
    return config
