"""An emulated chroot is made as a native one: by whom does not show, and what runs in it reaches nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coreimage.errors import HostError
from coreimage.model import RootfsBuild
from coreimage.rootfs import emulation
from tests.harness.archive import LocalArchive, TestKey
from tests.harness.stranger import built_by_stranger, search, text_in
from tests.harness.two import build_two, two_archive, two_project

HOOK = """#!/bin/sh
exec > /etc/report 2>&1
uname -m
@SEARCH@
cd /sys/class/net && echo *
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="emulated-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def archive(folder: Path) -> Iterator[LocalArchive]:
    key = TestKey.make(folder / "key", "two")
    yield two_archive(folder / "archive", key, folder / "work")
    key.close()


def project_in(home: Path, archive: LocalArchive) -> Path:
    """The project with the hook; and the secret that the hook looks for."""
    home.mkdir(exist_ok=True)
    project = two_project(home, archive)
    (home / "secret").write_text("signing key\n")
    # The same for all homes, since it is an input.
    (home / "hook.sh").write_text(HOOK.replace("@SEARCH@", search(home.parent / "first/secret")))
    project.write_text(project.read_text().replace("hooks: []", "hooks: [hook.sh]"))
    return project


def as_user(home: Path, project: Path) -> RootfsBuild:
    imports, words = "from tests.harness.two import build_two", (str(project), (home / "store").as_uri())
    return built_by_stranger(imports, "build_two(Path(argv[1]), argv[2], 'arm64')", home, *words)


def test_by_whom_it_was_built_does_not_show_and_its_hook_reaches_nothing(folder: Path, archive: LocalArchive) -> None:
    first, second = folder / "first", folder / "second-and-longer"
    ours = build_two(project_in(first, archive), (first / "store").as_uri(), "arm64")
    theirs = as_user(second, project_in(second, archive))
    assert ours.rootfs == theirs.rootfs
    assert ours.lock == theirs.lock
    assert text_in(ours, "etc/report", (first / "store").as_uri()).split() == ["aarch64", "lo"]


def test_a_machine_that_cannot_is_told_what_helps(
    folder: Path, archive: LocalArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a kernel without binfmt_misc for user namespaces, where nothing is registered for the whole machine."""
    monkeypatch.setattr(emulation, "_REGISTER", emulation._REGISTER.replace("-t binfmt_misc", "-t no_such_thing"))
    monkeypatch.setattr(emulation.Emulator, "is_machine_wide", lambda _: False)
    home = folder / "first"
    with pytest.raises(HostError, match=r"Linux 6\.7") as raised:
        build_two(project_in(home, archive), (folder / "another").as_uri(), "arm64")
    assert "apt-get install" in raised.value.resolution
