"""What a newcomer gets from one command, and what the second run does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from coreimage.boot_test import make_overlay
from coreimage.host.process import run
from coreimage.host.sandbox import sandbox_argv
from tests.chain.conftest import CHANNEL, Chain
from tests.chain.system import check_file_systems, check_root, identity_of, started
from tests.harness.strict_client import check_tree

pytestmark = pytest.mark.timeout(1800)


def test_the_run_ends_with_the_summary_of_2015(chain: Chain) -> None:
    assert chain.image.stat().st_size == 3_899_999_744
    assert re.search(
        r"New image complete\nSummary:\n Output: x86.img\n Architecture: amd64\n Channel: .*edge.*\n Version: 1\n",
        chain.output,
    )
    assert "Launch by running: qemu-system-x86_64 -m 768" in chain.output
    assert len(chain.password) >= 12
    assert "Back up the folder" in chain.output, "new signing keys are said to need a backup"
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
    (image,) = store.glob("images/**/*.zst")

    shadow = _output("tar", "-xzOf", rootfs, "etc/shadow")
    assert {line.split(":")[1] for line in shadow.splitlines()} <= {"*", "!", "!*"}
    assert _occurrences("admin:$6$", f"cat {chain.image}") == 1, "this is how a login looks"
    assert _occurrences("admin:$6$", f"zstd -dc {image}") == 0
    assert _occurrences(chain.password, f"cat {chain.image}") == 0


_ON_THE_DEVICE = """
import subprocess, sys
sys.path.append(sys.argv[1])
from coreimage.client import Session
from coreimage.client.compact import PACKERS, UNPACKERS, PatchedTree
for name, argv in PACKERS.items():
    packed = subprocess.run(argv, input=b"x" * 5000, stdout=subprocess.PIPE, check=True).stdout
    unpacker = UNPACKERS[name.partition("-")[0]]
    assert subprocess.run(unpacker, input=packed, stdout=subprocess.PIPE, check=True).stdout == b"x" * 5000, name
subprocess.run(["gpgv", "--version"], check=True)
"""


def test_what_applies_updates_runs_in_the_image(chain: Chain, tmp_path: Path) -> None:
    """Our client with the image's own Python, and every command that a compact delta may name."""
    (rootfs,) = (chain.workshop.folder / "var/store").glob("cdimage/*/*/*/*/*core-amd64.tar.gz")
    _output("tar", "-xzf", rootfs, "-C", tmp_path, "--no-same-owner", "--exclude=usr/share", "usr", "etc")
    library = Path(__file__).parents[2]
    _output(*sandbox_argv(tree=tmp_path), "python3", "-I", "-c", _ON_THE_DEVICE, library)


def _output(*argv: str | Path) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _occurrences(needle: str, source: str) -> int:
    command = f"{source} | grep --text --fixed-strings --only-matching --count -e '{needle}'"
    counted = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return int(counted.stdout)


def test_the_system_is_sound_and_keeps_what_it_should(chain: Chain, accelerator: str, tmp_path: Path) -> None:
    disk = make_overlay(chain.image, tmp_path / "disk.qcow2", run=run)
    with started(disk, tmp_path, accelerator, chain.password) as (_, shell):
        shell.ask("systemctl is-system-running --wait")
        assert shell.ask("systemctl --failed --no-legend --plain") == ""
        assert shell.ask("hostname") == shell.ask("cat /etc/hostname")
        check_file_systems(shell)
        check_root(shell)
        machine_id, host_key = identity_of(shell)
        shell.ask("echo mine > ~/kept")
        shell.as_root("echo mine > /etc/kept; rm /etc/motd; echo mine > /tmp/gone; sync")
        shell.as_root("systemctl reboot")
        shell.log_in()
        shell.ask("systemctl is-system-running --wait")
        assert shell.ask("cat ~/kept /etc/kept") == "mine\nmine"
        assert shell.ask("ls /etc/motd /tmp/gone 2>/dev/null", status=2) == ""
        assert identity_of(shell) == (machine_id, host_key)
        assert shell.ask("systemctl --failed --no-legend --plain") == ""


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
    assert anew == {"boot-test", "mark-good"}, "the new verdict, and nothing else"
    assert result["build_id"] == first["build_id"]
    assert result["devices"][0]["version"] == 1
