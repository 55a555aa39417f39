"""`coreimage import` and `gc`, as commands, over builds that are published for real."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from coreimage.model import TAR_GZ, PublishedBuild
from coreimage.publication import mark_good, publish_build
from coreimage.signing import GnupgSigner, Role, create_keys
from coreimage.storage import put_blob_bytes
from tests.harness.trees import device_tarball, rootfs_tarball
from tests.harness.workshop import Workshop
from tests.unit.publication.builds import boot_report, content

EDGE, STABLE = "debian-core/13/edge", "debian-core/13/stable"
NOW = datetime.now(UTC)
PROJECT = """
project: debian-core
series:
  "13":
    codename: trixie
    archives: [{suites: [trixie]}]
    rootfs: {packages: [systemd-sysv]}
devices:
  generic_amd64: {architecture: amd64, gadget: gadget, packages: [linux-image-cloud-amd64]}
channels:
  debian-core/13/edge:
    series: "13"
    devices: [generic_amd64]
    boot_test: [bios]
    import_policy: any
    retention: {keep_count: 1}
  debian-core/13/tested: {series: "13", devices: [generic_amd64], import_policy: good}
  debian-core/13/stable: {series: "13", devices: [generic_amd64], type: manual}
"""


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    create_keys(tmp_path / "var/keys", bits=dict.fromkeys(Role, 2048))
    (tmp_path / "project.yaml").write_text(PROJECT)
    return Workshop(tmp_path, ordinary=False)


def published(workshop: Workshop, text: bytes, **facts: Any) -> PublishedBuild:
    """`facts` are of `content`."""
    store = workshop.store
    described = content(store, text.decode(), **facts)
    rootfs = described.rootfs[0].model_copy(update={"rootfs": put_blob_bytes(store, rootfs_tarball(text), TAR_GZ)})
    device = described.devices[0].model_copy(update={"tarball": put_blob_bytes(store, device_tarball(), TAR_GZ)})
    described = described.model_copy(update={"rootfs": (rootfs,), "devices": (device,)})
    return publish_build(described, store=store, signer=GnupgSigner(workshop.folder / "var/keys"), now=NOW)


def good(workshop: Workshop, build: PublishedBuild) -> None:
    mark_good(build, "amd64", [boot_report(workshop.store)], store=workshop.store, now=NOW)


def imported(workshop: Workshop, channel: str) -> dict[str, Any]:
    done = workshop.coreimage("--project", "project.yaml", "--json", "import", channel)
    (found,) = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_policies_gates_and_channels_filled_by_hand(workshop: Workshop) -> None:
    missing = workshop.coreimage("--project", "project.yaml", "import", EDGE, accept=(1,))
    assert "coreimage build" in missing.stderr
    first = published(workshop, b"one")
    waiting = imported(workshop, EDGE)
    assert (waiting["version"], waiting["released"]) == (1, False)
    workshop.coreimage("--project", "project.yaml", "import", "debian-core/13/tested", accept=(1,))
    good(workshop, first)
    assert imported(workshop, EDGE) == {**waiting, "released": True}
    assert imported(workshop, "debian-core/13/tested")["released"]
    second = published(workshop, b"two")
    assert imported(workshop, "debian-core/13/tested")["build_id"] == first.build_id
    assert imported(workshop, EDGE)["build_id"] == second.build_id
    by_hand = workshop.coreimage("--project", "project.yaml", "import", STABLE, accept=(2,))
    assert "coreimage promote" in by_hand.stderr

    good(workshop, second)
    assert imported(workshop, EDGE)["version"] == 2
    workshop.coreimage("channel", "create", STABLE)
    promoted = workshop.result("promote", EDGE, STABLE, "--device", "generic_amd64", "--version", "1")
    assert promoted == {"changed": True, "channel": STABLE, "device": "generic_amd64", "version": 1}
    more = ("--device", "generic_amd64", "--delta-bases", "0")
    assert workshop.result("promote", EDGE, STABLE, *more)["version"] == 2
    stable = workshop.folder / f"var/store/system-image/{STABLE}/generic_amd64/index.json"
    assert {image["type"] for image in json.loads(stable.read_bytes())["images"]} == {"full"}
    dry = workshop.result("--project", "project.yaml", "gc", "--dry-run")
    assert dry["expired"] == [{"channel": EDGE, "device": "generic_amd64", "versions": [1]}]
    assert workshop.result("--project", "project.yaml", "gc")["expired"] == dry["expired"]
    assert workshop.result("--project", "project.yaml", "gc")["expired"] == []
    assert workshop.result("verify")["findings"] == []


@pytest.mark.parametrize("device", ["board", "pi_amd64"])
def test_names_say_nothing_about_the_architecture(workshop: Workshop, device: str) -> None:
    """A device of any name is imported, and a build of a product with dots in its name opens the gate."""
    project = PROJECT.replace("generic_amd64: {architecture: amd64", f"{device}: {{architecture: arm64")
    project = project.replace("generic_amd64", device).replace("boot_test: [bios]", "boot_test: [uefi]")
    (workshop.folder / "project.yaml").write_text(
        project.replace("    codename: trixie\n", "    codename: trixie\n    product: core-2.0\n")
    )
    build = published(workshop, b"one", architectures=("arm64",), devices=(device,), product="core-2.0")
    assert imported(workshop, EDGE)["released"] is False
    mark_good(build, "arm64", [boot_report(workshop.store)], store=workshop.store, now=NOW)
    assert imported(workshop, EDGE)["released"] is True


def test_builds_are_compared_numerically(workshop: Workshop) -> None:
    builds = [published(workshop, b"%d" % number) for number in range(12)]
    assert builds[-1].build_id.endswith(".11")
    assert imported(workshop, EDGE)["build_id"] == builds[-1].build_id
