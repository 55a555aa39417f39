"""A project that travels: what is put into a store is what a worker reads, whatever folder it came from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coreimage.errors import ConflictError, NotFoundError, UsageError, VerificationError
from coreimage.project.bundle import named_paths, open_project, project_name, store_project
from coreimage.project.loading import load_project
from coreimage.storage import open_store

EXAMPLE = Path(__file__).parents[3] / "docs/examples/my-device"


def test_a_worker_reads_what_was_stored(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    name = store_project(EXAMPLE / "project.yaml", store=store)
    here, there = load_project(EXAMPLE / "project.yaml"), open_project(name, store=store)
    assert there.config == here.config
    assert there.folder != here.folder
    for path in named_paths(here):
        assert there.path(path).is_dir() == here.path(path).is_dir()
    hook = here.config.series["13"].rootfs.hooks[0]
    assert there.path(hook).read_bytes() == here.path(hook).read_bytes()
    assert there.path(hook).stat().st_mode & 0o111


def test_the_name_depends_on_the_content_alone(tmp_path: Path) -> None:
    first = project_name(EXAMPLE / "project.yaml")
    copied = tmp_path / "a/b"
    shutil.copytree(EXAMPLE.parents[2] / "deployments/gadgets", copied / "deployments/gadgets")
    shutil.copytree(EXAMPLE, copied / "docs/examples/my-device")
    elsewhere = copied / "docs/examples/my-device/project.yaml"
    assert project_name(elsewhere) == first
    (copied / "docs/examples/my-device/overlay/etc/my-service/settings.conf").write_text("other")
    assert project_name(elsewhere) != first


def test_changed_bytes_in_the_store_are_refused(tmp_path: Path) -> None:
    text = (EXAMPLE.parents[2] / "deployments/debian-core.yaml").read_text()
    for device in ("generic_amd64", "generic_arm64"):
        (tmp_path / "gadgets" / device).mkdir(parents=True)
    (tmp_path / "project.yaml").write_text(text)
    store = open_store(str(tmp_path / "store"))
    name = project_name(tmp_path / "project.yaml")
    with pytest.raises(NotFoundError):
        open_project(name, store=store)
    key = name.removeprefix("store:").partition(".tar/")[0] + ".tar"
    store.put_bytes(key, b"something else", media_type="application/x-tar")
    with pytest.raises(VerificationError, match="not the project"):
        open_project(name, store=store)


def test_a_folder_in_the_place_of_a_bundle_is_an_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    key = project_name(EXAMPLE / "project.yaml").removeprefix("store:").partition(".tar/")[0] + ".tar"
    store.put_bytes(f"{key}/object", b"", media_type="application/x-tar")
    with pytest.raises(ConflictError, match="is a folder"):
        store_project(EXAMPLE / "project.yaml", store=store)


def test_what_cannot_be_packed_is_said(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "project.yaml", tmp_path)
    with pytest.raises(UsageError, match="mend its path"):
        store_project(tmp_path / "project.yaml", store=open_store(str(tmp_path / "store")))
    with pytest.raises(UsageError, match="names no project"):
        open_project("store:elsewhere", store=open_store(str(tmp_path / "store")))
