"""What a newcomer gets from one command, and what the second run does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.chain.conftest import CHANNEL, Chain
from tests.harness.ordinary_user import ROOT_DIR
from tests.harness.strict_client import check_tree
from tests.harness.workshop import Workshop, project

pytestmark = [pytest.mark.xdist_group("chain"), pytest.mark.timeout(1800)]


def test_the_run_ends_with_the_summary_of_2015(chain: Chain) -> None:
    assert chain.image.stat().st_size == 3_899_999_744
    assert re.search(
        r"New image complete\nSummary:\n Output: x86.img\n Architecture: amd64\n Channel: .*edge.*\n Version: 1\n",
        chain.output,
    )
    assert "Launch by running: qemu-system-x86_64 -m 768" in chain.output
    assert len(chain.password) >= 12
    assert "back" in chain.output, "new signing keys are said to need a backup"
    assert "\x1b" not in chain.output, "no terminal, no colours"


def test_the_published_build_is_complete_and_signed(chain: Chain) -> None:
    store = chain.workshop.store
    keys = [info.key for info in store.list("cdimage/")]
    (marker,) = [key for key in keys if key.endswith("/SHA256SUMS")]
    folder = marker.rpartition("/")[0]
    assert folder.startswith("cdimage/debian-core/13/daily-preinstalled/20")
    names = {key.removeprefix(f"{folder}/") for key in keys if key.startswith(f"{folder}/")}
    expected = {"trixie-preinstalled-core-amd64.tar.gz", "trixie-preinstalled-core-amd64.device.tar.gz"}
    expected |= {"trixie-preinstalled-core-amd64.manifest", "SHA256SUMS.gpg", "build.json"}
    assert expected <= names
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
        cwd=chain.workshop.folder / "var/store" / folder,
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_a_client_of_2015_accepts_the_tree(chain: Chain) -> None:
    root = chain.workshop.folder / "var/store/system-image"
    check_tree(root, (root / "gpg/archive-master.tar.xz").read_bytes())
    chain.workshop.coreimage("verify")


def test_the_login_is_in_the_image_alone(chain: Chain) -> None:
    """No hash of a password is in anything that is published, and the password itself is nowhere."""
    store = chain.workshop.folder / "var/store"
    (rootfs,) = store.glob("cdimage/*/*/*/*/*core-amd64.tar.gz")
    (image,) = store.glob("images/**/*.xz")

    shadow = _output("tar", "-xzOf", rootfs, "etc/shadow")
    assert {line.split(":")[1] for line in shadow.splitlines()} <= {"*", "!", "!*"}
    assert _occurrences("admin:$6$", f"cat {chain.image}") == 1, "this is how a login looks"
    assert _occurrences("admin:$6$", f"xz -dc {image}") == 0
    assert _occurrences(chain.password, f"cat {chain.image}") == 0


def _output(*argv: str | Path) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _occurrences(needle: str, source: str) -> int:
    command = f"{source} | grep --text --fixed-strings --only-matching --count -e '{needle}'"
    counted = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return int(counted.stdout)


def test_an_unchanged_run_builds_nothing(chain: Chain) -> None:
    store = chain.workshop.store
    before = {info.key: info.etag for info in store.list("")}

    result = chain.workshop.result("build", CHANNEL)

    assert all(step["cached"] for step in result["steps"]), result["steps"]
    assert {info.key: info.etag for info in store.list("")} == before


def test_a_lost_artifact_is_built_again_not_believed(chain: Chain) -> None:
    store = chain.workshop.store
    first = chain.workshop.result("build", CHANNEL)
    store.delete([first["devices"][0]["boots"][0]["serial_log"]])

    result = chain.workshop.result("build", CHANNEL)

    anew = {step["name"] for step in result["steps"] if not step["cached"]}
    assert anew == {"boot-test"}
    assert result["build_id"] == first["build_id"]
    assert result["devices"][0]["version"] == 1


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
