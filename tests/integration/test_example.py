"""docs/examples/my-device, built as it is, but for the address of the extra archive and its key."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coreimage.disk_image import load_gadget
from coreimage.host.process import run
from coreimage.project.loading import load_project
from coreimage.rootfs import build_custom, build_rootfs, plan_packages, probe_archives, rootfs_spec
from coreimage.storage import open_store, read_blob
from tests.harness.archive import LocalArchive, TestKey, fetch

EXAMPLE = Path(__file__).parents[2] / "docs/examples/my-device"


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="example-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def extra(folder: Path) -> Iterator[LocalArchive]:
    key = TestKey.make(folder / "key", "extra")
    archive = LocalArchive(folder / "extra", key, origin="Example")
    archive.add("stable", "my-service", "2.1")
    archive.add("stable", "hello", "0.1", content="the pinned one\n")
    yield archive.publish()
    key.close()


def test_the_example_is_built_as_its_readers_expect(folder: Path, extra: LocalArchive) -> None:
    project = load_project(copied(folder / "my-device", extra))
    store = open_store((folder / "store").as_uri())
    spec = rootfs_spec(project, "my-device/13/edge", "amd64", store=store)
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    lock = plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=run)
    built = build_rootfs(spec, lock, store=store, fetch=fetch, run=run)
    with tarfile.open(fileobj=io.BytesIO(read_blob(store, built.rootfs))) as tar:
        members = tar.getnames()
        settings = text(tar, "etc/my-service/settings.conf")
        assert "colour = blue\n" in settings
        assert settings.endswith("version = 2.1\n")
        assert "\nmy-service:x:" in text(tar, "etc/passwd")
        assert text(tar, "usr/share/hello/content") == "the pinned one\n"
        assert text(tar, "etc/hostname") == "my-device\n"
    custom = build_custom(project, "my-device/13/edge", "amd64", lock, store=store, run=run)
    with tarfile.open(fileobj=io.BytesIO(read_blob(store, custom.tarball))) as tar:
        assert text(tar, "system/etc/my-service/brand/name") == "My device\n"
    assert "usr/bin/login" in members
    assert not [name for name in members if name.startswith("etc/apt")]
    assert "hello\t0.1\n" in read_blob(store, built.manifest).decode()
    assert "warning: failed to open" not in read_blob(store, built.log).decode()


def test_the_example_s_gadget_is_there() -> None:
    project = load_project(EXAMPLE / "project.yaml")
    assert load_gadget(project.path(project.config.devices["my_device"].gadget))


def copied(target: Path, extra: LocalArchive) -> Path:
    shutil.copytree(EXAMPLE, target)
    described = target / "project.yaml"
    before = described.read_text()
    described.write_text(before.replace("https://packages.example.com/debian", extra.uri))
    assert described.read_text() != before
    (target / "keys/packages.example.com.asc").write_bytes(extra.key.public.read_bytes())
    return described


def text(tar: tarfile.TarFile, name: str) -> str:
    file = tar.extractfile(name)
    assert file is not None
    return file.read().decode()
