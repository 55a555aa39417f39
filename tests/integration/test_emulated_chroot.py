"""An emulated chroot is made as a native one: by whom does not show, and what runs in it reaches nothing."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coreimage.errors import HostError
from coreimage.model import RootfsBuild
from coreimage.process import run
from coreimage.rootfs import emulation
from coreimage.storage import open_store, read_blob
from tests.harness.archive import LocalArchive, TestKey
from tests.harness.ordinary_user import ROOT_DIR, as_ordinary_user
from tests.harness.two import build_two, two_archive, two_project

BUILD = (
    "import sys, structlog; from pathlib import Path; from tests.harness.two import build_two;"
    "structlog.configure(logger_factory=structlog.ReturnLoggerFactory());"
    "print(build_two(Path(sys.argv[1]), sys.argv[2], 'arm64').model_dump_json())"
)
HOOK = """#!/bin/sh
exec > /etc/report 2>&1
uname -m
for root in / /proc/[0-9]*/root/ /proc/[0-9]*/cwd/; do
    for name in @SECRET@ @REPOSITORY@; do [ -e "$root$name" ] && echo "FOUND $root$name"; done
done
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
    secret = str(home.parent / "first" / "secret")
    (home / "hook.sh").write_text(HOOK.replace("@SECRET@", secret).replace("@REPOSITORY@", str(ROOT_DIR)))
    project.write_text(project.read_text().replace("hooks: []", "hooks: [hook.sh]"))
    return project


def as_user(home: Path, project: Path) -> RootfsBuild:
    strange = ["sh", "-c", 'umask 077; export TZ=Asia/Tokyo; exec "$@"', "sh"]
    argv = [*strange, sys.executable, "-c", BUILD, str(project), (home / "store").as_uri()]
    output = run(as_ordinary_user(argv, home), cwd=home, env={"PYTHONPATH": str(ROOT_DIR)}).output
    return RootfsBuild.model_validate_json(output.splitlines()[-1])


def test_by_whom_it_was_built_does_not_show_and_its_hook_reaches_nothing(folder: Path, archive: LocalArchive) -> None:
    first, second = folder / "first", folder / "second-and-longer"
    ours = build_two(project_in(first, archive), (first / "store").as_uri(), "arm64")
    theirs = as_user(second, project_in(second, archive))
    assert ours.rootfs == theirs.rootfs
    assert ours.lock == theirs.lock
    content = read_blob(open_store((first / "store").as_uri()), ours.rootfs)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        file = tar.extractfile("etc/report")
        assert file is not None
        assert file.read().decode().split() == ["aarch64", "lo"]


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
