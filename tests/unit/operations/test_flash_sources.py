"""Which device and which gadget `flash` takes, without a server and without programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coreimage.errors import NotFoundError, UsageError
from coreimage.http import Downloader
from coreimage.operations.flash_sources import FlashSources
from coreimage.operations.tree_source import TreeSource
from coreimage.project.config import Project
from coreimage.project.loading import load_project

DEPLOYMENTS = Path(__file__).parents[3] / "deployments"
CHANNEL = "debian-core/13/edge"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Its channel has one device more than the shipped one's: an arm64 machine with a misleading name."""
    shutil.copytree(DEPLOYMENTS / "gadgets", tmp_path / "gadgets")
    text = (DEPLOYMENTS / "debian-core.yaml").read_text()
    device = "{architecture: arm64, gadget: gadgets/generic_arm64, packages: [linux-image-arm64]}"
    text = text.replace("devices:\n  generic_amd64:", f"devices:\n  pi_amd64: {device}\n  generic_amd64:", 1)
    (tmp_path / "project.yaml").write_text(text)
    return load_project(tmp_path / "project.yaml")


def sources(
    tmp_path: Path, project: Project | None = None, *, device: str | None = None, oem: str | None = None
) -> FlashSources:
    return FlashSources(
        tree=TreeSource((tmp_path / "store").as_uri(), tmp_path / "servers"),
        fetch=Downloader(),
        channel=CHANNEL,
        project=project,
        device_option=device,
        oem=oem,
        needs_no_server=True,
        wants_machine_tools=True,
    )


def test_the_device_is_the_named_one_else_the_gadgets_else_the_projects(tmp_path: Path, project: Project) -> None:
    assert sources(tmp_path, project, device="board", oem="generic-arm64").device == "board"
    assert sources(tmp_path, project, oem="generic-arm64").device == "generic_arm64"
    assert sources(tmp_path, project).device == "generic_amd64"
    assert sources(tmp_path).device == "generic_amd64"


def test_a_gadget_of_this_machine_names_its_device(tmp_path: Path) -> None:
    chosen = sources(tmp_path, oem=str(DEPLOYMENTS / "gadgets/uboot_arm64"))
    assert chosen.open_gadget(tmp_path)[1].architecture == "arm64"
    assert chosen.device == "uboot_arm64"


def test_the_projects_gadget_comes_before_the_one_installed_with_us(tmp_path: Path, project: Project) -> None:
    folder, _ = sources(tmp_path, project).open_gadget(tmp_path)
    assert folder == tmp_path / "gadgets/generic_amd64"
    folder, _ = sources(tmp_path).open_gadget(tmp_path)
    assert folder.parts[-3:] == ("deployments", "gadgets", "generic_amd64")


def test_a_gadget_that_nobody_has(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no gadget 'toaster-amd64'"):
        sources(tmp_path, device="toaster_amd64").open_gadget(tmp_path)


def test_a_gadget_for_another_architecture_is_refused(tmp_path: Path) -> None:
    arm64 = str(DEPLOYMENTS / "gadgets/generic_arm64")
    with pytest.raises(UsageError, match="is for arm64"):
        sources(tmp_path, device="pi_amd64", oem=arm64).open_gadget(tmp_path)
    sources(tmp_path, device="board", oem=arm64).open_gadget(tmp_path)


def test_the_project_knows_a_devices_architecture_better_than_its_name(tmp_path: Path, project: Project) -> None:
    assert sources(tmp_path, project, device="pi_amd64").open_gadget(tmp_path)[1].architecture == "arm64"
    amd64 = str(DEPLOYMENTS / "gadgets/generic_amd64")
    with pytest.raises(UsageError, match="is for amd64"):
        sources(tmp_path, project, device="pi_amd64", oem=amd64).open_gadget(tmp_path)
