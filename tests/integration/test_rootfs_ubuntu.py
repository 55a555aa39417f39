"""An archive shaped like Ubuntu's: pockets that share a code name, components, a PPA with its own key. Data only."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from coreimage.errors import BuildError, NotFoundError
from coreimage.host.process import run
from coreimage.model import PackageLock
from coreimage.project.config import Project
from coreimage.project.loading import load_project
from coreimage.rootfs import Offline, build_rootfs, device_spec, plan_packages, probe_archives, read_lock, rootfs_spec
from coreimage.storage import Store, blob_key, read_blob
from tests.harness.archive import LocalArchive, TestKey, fetch
from tests.harness.tiny import tiny_archive

SHIPPED = Path(__file__).parents[2] / "deployments/ubuntu-core.yaml"
CHANNEL = "ubuntu-core/24.04/edge"


@pytest.fixture(scope="module")
def keys() -> Iterator[tuple[TestKey, TestKey]]:
    # gpg-agent's socket path must be short.
    folder = Path(tempfile.mkdtemp(prefix="keys-"))
    made = TestKey.make(folder / "a", "ubuntu"), TestKey.make(folder / "b", "ppa")
    yield made
    for key in made:
        key.close()
    shutil.rmtree(folder)


@pytest.fixture
def ubuntu(tmp_path: Path, keys: tuple[TestKey, TestKey]) -> LocalArchive:
    """What the shipped project asks for, in small; `sudo` moved on in the pockets, `zstd` is in universe."""
    archive = tiny_archive(tmp_path / "ubuntu", keys[0], suite="noble", origin="Ubuntu", codename="noble")
    shipped = load_project(SHIPPED).config
    names = {*shipped.series["24.04"].rootfs.packages, "busybox", "e2fsprogs", "initramfs-tools"}
    for name in sorted(names - {"zstd"}):
        archive.add("noble", name)
    archive.add("noble", "zstd", component="universe")
    archive.add("noble", "linux-image-virtual", fields="Depends: linux-image-6.8.0-1-generic\n")
    archive.add("noble", "linux-image-6.8.0-1-generic")
    archive.add("noble-updates", "sudo", "1.1")
    archive.add("noble-updates", "htop", "1", component="universe")
    archive.add("noble-security", "sudo", "1.2")
    archive.add("noble-security", "htop", "1", component="universe")
    return archive.publish()


@pytest.fixture
def ppa(tmp_path: Path, keys: tuple[TestKey, TestKey]) -> LocalArchive:
    archive = LocalArchive(tmp_path / "ppa", keys[1], origin="LP-PPA-team-image", label="Image")
    archive.add("noble", "sudo", "9~ppa1")
    archive.add("noble", "image-config")
    return archive.publish()


def project(folder: Path, ubuntu: LocalArchive, **extra: object) -> Project:
    """The shipped project with nothing but other URIs and keys."""
    document = yaml.safe_load(SHIPPED.read_text("utf-8"))
    series = document["series"]["24.04"]
    series["archives"] = [{**a, "uri": ubuntu.uri, "key": str(ubuntu.key.public)} for a in series["archives"]]
    if extra:
        series["extra_archives"] = [extra]
        series["rootfs"]["packages"].append("image-config")
    path = folder / "project.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_project(path)


def plan(found: Project, store: Store, *, device: bool = False) -> PackageLock:
    spec = (
        device_spec(found, CHANNEL, "generic_amd64", store=store)
        if device
        else rootfs_spec(found, CHANNEL, "amd64", store=store)
    )
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    return read_lock(store, plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=run))


def origins(lock: PackageLock) -> dict[str, tuple[str, str]]:
    return {package.name: (package.version, package.archive.rpartition(" ")[2]) for package in lock.packages}


def test_pockets_and_components_are_planned_from(tmp_path: Path, ubuntu: LocalArchive, store: Store) -> None:
    lock = plan(project(tmp_path, ubuntu), store)
    found = origins(lock)
    assert found["sudo"] == ("1.2", "noble-security")
    assert found["zstd"] == ("1", "noble")
    assert found["tiny-base"] == ("1", "noble")
    assert [(r.origin, r.suite, r.codename) for r in lock.releases] == [
        ("Ubuntu", suite, "noble") for suite in ("noble", "noble-updates", "noble-security")
    ]


def test_the_kernel_comes_with_its_meta_package(tmp_path: Path, ubuntu: LocalArchive, store: Store) -> None:
    found = origins(plan(project(tmp_path, ubuntu), store, device=True))
    assert {"linux-image-virtual", "linux-image-6.8.0-1-generic", "busybox"} <= found.keys()


def extra_of(ppa: LocalArchive, **more: object) -> dict[str, object]:
    return {"uri": ppa.uri, "suite": "noble", "key": str(ppa.key.public), **more}


@pytest.mark.parametrize("pin", [{}, {"pin_priority": 1001}])
def test_a_ppa_replaces_nothing_unless_it_may(
    tmp_path: Path, ubuntu: LocalArchive, ppa: LocalArchive, store: Store, pin: dict[str, object]
) -> None:
    with pytest.raises(BuildError) as caught:
        plan(project(tmp_path, ubuntu, **extra_of(ppa, **pin)), store)
    assert f"{ppa.uri} noble: it would replace the distribution's sudo with its 9~ppa1" in str(caught.value)
    assert "`may_replace`" in str(caught.value)


@pytest.mark.parametrize("allowed", [["sudo"], ["*"]])
def test_a_ppa_replaces_what_it_may_and_brings_its_own(
    tmp_path: Path, ubuntu: LocalArchive, ppa: LocalArchive, store: Store, allowed: list[str]
) -> None:
    found = origins(plan(project(tmp_path, ubuntu, **extra_of(ppa, may_replace=allowed)), store))
    assert (found["sudo"], found["image-config"]) == (("9~ppa1", "noble"), ("1", "noble"))


def test_a_rootfs_is_built_of_it(tmp_path: Path, ubuntu: LocalArchive, ppa: LocalArchive, store: Store) -> None:
    found = project(tmp_path, ubuntu, **extra_of(ppa, may_replace=["sudo"]))
    spec = rootfs_spec(found, CHANNEL, "amd64", store=store)
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    lock = plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=run)
    built = build_rootfs(spec, lock, store=store, fetch=fetch, run=run)
    manifest = read_blob(store, built.manifest).decode()
    assert "sudo\t9~ppa1\n" in manifest
    assert "zstd\t1\n" in manifest
    with tarfile.open(fileobj=io.BytesIO(read_blob(store, built.rootfs))) as tar:
        content = tar.extractfile("usr/share/sudo/content")
        assert content is not None
        assert content.read() == b"sudo 9~ppa1\n"
    # Its .debs are in the store now: the same again from the lock alone, and not one more without it.
    shutil.rmtree(ubuntu.folder)
    shutil.rmtree(ppa.folder)
    again = build_rootfs(spec, lock, store=store, fetch=Offline(), run=run)
    assert again.rootfs == built.rootfs
    missing = read_lock(store, lock).packages[0]
    store.delete([blob_key(missing.sha256)])
    with pytest.raises(NotFoundError, match=f"{missing.name}.* is not in the store"):
        build_rootfs(spec, lock, store=store, fetch=Offline(), run=run)


def test_a_low_pin_leaves_the_distribution_s_package(
    tmp_path: Path, ubuntu: LocalArchive, ppa: LocalArchive, store: Store
) -> None:
    found = origins(plan(project(tmp_path, ubuntu, **extra_of(ppa, pin_priority=400)), store))
    assert found["sudo"] == ("1.2", "noble-security")
    assert "image-config" in found
