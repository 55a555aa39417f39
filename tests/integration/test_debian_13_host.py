"""A machine of Debian 13, with its own Python, apt, dpkg and tar, makes the same bytes of the same lock as this one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution, version
from pathlib import Path

import certifi
import pytest

from coreimage.host.process import run
from coreimage.project.loading import load_project
from coreimage.rootfs import build_tools, device_spec, plan_packages, probe_archives, rootfs_spec, tools_spec
from coreimage.rootfs.debs import fetch_packages
from coreimage.rootfs.lock import read_lock
from coreimage.rootfs.unpacked_tools import unpacked_tools
from tests.harness import one_image
from tests.harness.archive import fetch
from tests.harness.one_image import Given
from tests.harness.tools import ROOT_DIR, SharedTools

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PROJECT, CHANNEL, DEVICE = ROOT_DIR / "deployments/debian-core.yaml", "debian-core/13/edge", "generic_amd64"
_PACKAGES = (
    *(
        "apt",
        "bash",
        "coreutils",
        "dash",
        "debian-archive-keyring",
        "dpkg",
        "findutils",
        "gnupg",
        "gpgv",
        "grep",
        "gzip",
    ),
    *("base-passwd", "mount", "pigz", "sed", "tar", "uidmap", "util-linux", "xz-utils"),
    *("python3", "python3-pydantic", "python3-structlog", "python3-debian", "python3-yaml", "python3-gnupg"),
    *("python3-boto3", "python3-requests", "python3-click", "python3-rich"),
)

_OF_PYPI = ("attrs", "cronsim", "hdiffpatch")

_ENTER = """
set -eu
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
for name in bin sbin lib lib64; do [ -e "$name" ] || ln -s "usr/$name" "$name"; done
while [ "$1" != -- ]; do
    mkdir -p "$root/$1"
    mount --rbind "$1" "$root/$1"
    shift
done
shift
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
pivot_root . old
umount -l /old
cd /
exec "$@"
"""
"""Makes the tree the root of a mount namespace: user namespaces, which our sandboxes need, are refused in a chroot."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root enters another machine's tree")
    made = Path(tempfile.mkdtemp(prefix="trixie-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def trixie(folder: Path, tools: SharedTools) -> Path:
    """A machine of Debian 13, as far as programs go: its packages, unpacked, and what Debian has no package of."""
    store = tools.store
    spec = tools_spec(load_project(PROJECT), "amd64", store=store).model_copy(update={"packages": _PACKAGES})
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    lock = plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=tools.run)
    tree = unpacked_tools(build_tools(lock, store=store, fetch=fetch, run=run), store=store, folder=folder)
    for name in ("dev", "proc", "sys", "tmp", "run", "root", "old", "var/lib/dpkg", "etc/ssl/certs"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    lines = [f"deb {release.uri} {release.suite} main\n" for release in releases]
    (tree / "etc/apt/sources.list").write_text("".join(lines))
    shutil.copy(certifi.where(), tree / "etc/ssl/certs/ca-certificates.crt")
    _install(tree / "usr/lib/python3/dist-packages")
    return tree


def _install(folder: Path) -> None:
    """What Debian has no package of, as this machine has it installed, for the other Python; and who we are."""
    wanted = [f"{name}=={version(name)}" for name in _OF_PYPI]
    options = ["--target", str(folder), "--python-version", "3.13", "--only-binary=:all:", "--no-deps", "--quiet"]
    run([sys.executable, "-m", "pip", "install", *options, *wanted])
    described = Path(str(distribution("coreimage").locate_file(""))).glob("coreimage-*.dist-info")
    for found in described:
        shutil.copytree(found, folder / found.name)


def test_it_makes_the_same_image(folder: Path, trixie: Path, tools: SharedTools) -> None:
    store, project = tools.store, load_project(PROJECT)
    specs = rootfs_spec(project, CHANNEL, "amd64", store=store), device_spec(project, CHANNEL, DEVICE, store=store)
    releases = probe_archives(specs[0].archives, store=store, fetch=fetch, run=run)
    locks = [plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=tools.run) for spec in specs]
    for lock in locks:
        fetch_packages(read_lock(store, lock).packages, store=store, fetch=fetch)
    given = Given(
        project=str(PROJECT),
        channel=CHANNEL,
        device=DEVICE,
        store_url=store.url,
        rootfs_lock=locks[0],
        device_lock=locks[1],
        tools=tools.tools,
    )
    shown = [str(ROOT_DIR), str(folder), str(tools.folder)]
    enter = ["unshare", "--mount", "--", "sh", "-c", _ENTER, "sh", str(trixie), *shown, "--"]
    here = made([sys.executable], given, folder / "here")
    there = made([*enter, "/usr/bin/python3"], given, folder / "there")
    assert there.pop("python") == "3.13"
    del here["python"]
    assert there == here


def made(python: list[str], given: Given, work: Path) -> dict[str, str]:
    (work / "tmp").mkdir(parents=True)
    env = {"PYTHONPATH": str(ROOT_DIR), "TMPDIR": str(work / "tmp"), "COREIMAGE_CACHE": str(work / "cache")}
    said = run([*python, "-m", one_image.__name__, given.model_dump_json(), work], env=env, cwd=Path("/")).output
    found = json.loads(said.splitlines()[-1])
    assert isinstance(found, dict)
    return found
