"""Published builds in pairs: a Debian release as it came out, and the same packages with updates and security fixes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

from coreimage.host.process import run
from coreimage.model import Architecture, PublishedBuild, ToolsTree
from coreimage.project.config import Project
from coreimage.project.loading import load_project
from coreimage.publication import BuildContent, publish_build
from coreimage.rootfs import (
    build_device,
    build_rootfs,
    device_spec,
    plan_packages,
    probe_archives,
    rootfs_spec,
    tools_run,
)
from coreimage.signing import GnupgSigner, Role, create_keys
from coreimage.storage import Store, open_store
from coreimage.system_image import ChannelTree, publish_keyrings
from tests.benchmarks.place import ROOT
from tests.harness.archive import fetch
from tests.harness.tools import made_tools

DEVICE = "generic_amd64"
ARCHITECTURE: Architecture = "amd64"
RELEASES = {"12": "bookworm", "13": "trixie"}
_PROJECT = """
    project: pairs
    series:
      "before":
        distribution: debian
        codename: {codename}
        product: core
        archives: [{{suites: [{codename}]}}]
        rootfs: {{packages: &packages [{packages}]}}
      "after":
        distribution: debian
        codename: {codename}
        product: core
        archives: [{{suites: [{codename}, {codename}-updates]}}, {{suites: [{codename}-security]}}]
        rootfs: {{packages: *packages}}
    devices:
      {device}: {{architecture: {architecture}, gadget: {gadget}, packages: [linux-image-cloud-{architecture}]}}
    channels:
      before: {{series: "before", devices: [{device}], boot_test: []}}
      after: {{series: "after", devices: [{device}], boot_test: []}}
"""
PACKAGES = (
    *("systemd", "systemd-sysv", "systemd-resolved", "udev", "dbus", "libpam-systemd", "sudo", "iproute2"),
    *("openssh-server", "ca-certificates", "libnss-extrausers", "python3", "gpgv", "xz-utils", "zstd", "lz4"),
)
"""The last six are what our own products have beside: for users, and for updates."""


@dataclass(frozen=True)
class Pair:
    """Two builds in a store of their own below `folder`, with all keys."""

    folder: Path
    before: PublishedBuild
    after: PublishedBuild

    @property
    def store(self) -> Store:
        return _store(self.folder)

    @property
    def signer(self) -> GnupgSigner:
        return GnupgSigner(self.folder / "keys")


def made_pair(folder: Path, codename: str) -> Pair:
    """What an earlier call left in `folder` is taken as it is."""
    record = folder / "pair.json"
    if not record.exists():
        folder.mkdir(exist_ok=True)
        record.write_text(json.dumps([build.model_dump_json() for build in _build(folder, codename)]))
    before, after = map(PublishedBuild.model_validate_json, json.loads(record.read_text()))
    return Pair(folder, before, after)


def _build(folder: Path, codename: str) -> list[PublishedBuild]:
    store = _store(folder)
    values = {"codename": codename, "device": DEVICE, "architecture": ARCHITECTURE, "packages": ", ".join(PACKAGES)}
    values["gadget"] = str(ROOT / "deployments/gadgets" / DEVICE)
    file = folder / "project.yaml"
    file.write_text(dedent(_PROJECT).format(**values))
    create_keys(folder / "keys", bits=dict.fromkeys(Role, 2048))
    publish_keyrings(ChannelTree(store, GnupgSigner(folder / "keys"), lambda: datetime.now(UTC)))
    tools = made_tools(file, store)
    return [
        _publish(_content(load_project(file), channel, store, tools), day, folder)
        for day, channel in enumerate(("before", "after"), start=1)
    ]


def _content(project: Project, channel: str, store: Store, tools: ToolsTree) -> BuildContent:
    by_tools = tools_run(tools, store=store)
    rootfs = rootfs_spec(project, channel, ARCHITECTURE, store=store)
    device = device_spec(project, channel, DEVICE, store=store)
    releases = probe_archives(rootfs.archives, store=store, fetch=fetch, run=run)
    locks = [
        plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=by_tools)
        for spec in (rootfs, device)
    ]
    return BuildContent(
        project=project.config.project,
        series="pair",
        codename=project.config.series[channel].codename,
        product="core",
        image_type="daily-preinstalled",
        rootfs=(build_rootfs(rootfs, locks[0], store=store, fetch=fetch, run=by_tools),),
        devices=(build_device(device, locks[1], store=store, fetch=fetch, run=by_tools),),
    )


def _publish(content: BuildContent, day: int, folder: Path) -> PublishedBuild:
    signer = GnupgSigner(folder / "keys")
    return publish_build(content, carry=(), store=_store(folder), signer=signer, now=datetime(2026, 1, day, tzinfo=UTC))


def _store(folder: Path) -> Store:
    return open_store((folder / "store").as_uri())
