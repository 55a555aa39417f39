"""A real chroot from the host's own mirror, with an extra archive, an overlay and hooks."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coreimage.errors import BuildError
from coreimage.host.process import run
from coreimage.model import RootfsBuild
from coreimage.project.loading import load_project
from coreimage.rootfs import build_rootfs, plan_packages, probe_archives, rootfs_spec
from coreimage.storage import Store, open_store, read_blob
from tests.harness.archive import LocalArchive, TestKey, fetch

PROJECT = """
project: example
series:
  "13":
    distribution: debian
    codename: trixie
    archives:
      - suites: [trixie]
    extra_archives:
      - {{uri: "{uri}", suite: trixie, key: extra.asc, pin_priority: 1001}}
    rootfs:
      packages: [systemd-sysv, libcap2-bin, libnss-extrausers, hello-extra]
      overlay: overlay
      hooks: [{hook}]
devices:
  generic_amd64: {{architecture: amd64, gadget: gadget, packages: [linux-image-cloud-amd64]}}
channels:
  example/13/edge: {{series: "13", devices: [generic_amd64]}}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="example-"))
    key = TestKey.make(made / "key", "extra")
    archive = LocalArchive(made / "extra", key, origin="Extra")
    archive.add("trixie", "hello-extra", content="hello\n")
    archive.publish()
    (made / "extra.asc").write_text(key.public.read_text())
    (made / "overlay/etc").mkdir(parents=True)
    (made / "overlay/etc/example.conf").write_text("colour = blue\n")
    (made / "good.sh").write_text(
        "#!/bin/sh\nset -e\ncat /etc/example.conf > /etc/from-hook\nenv | sort > /etc/hook-env\n"
    )
    (made / "bad.sh").write_text("#!/bin/sh\necho the hook speaks\nexit 7\n")
    yield made
    key.close()
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return open_store((folder / "store").as_uri())


def build(folder: Path, store: Store, hook: str) -> RootfsBuild:
    (folder / "project.yaml").write_text(PROJECT.format(uri=(folder / "extra").as_uri(), hook=hook))
    spec = rootfs_spec(load_project(folder / "project.yaml"), "example/13/edge", "amd64", store=store)
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    lock = plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=run)
    return build_rootfs(spec, lock, store=store, fetch=fetch, run=run)


def test_a_rootfs_is_built_twice_to_the_same_bytes(folder: Path, store: Store) -> None:
    first = build(folder, store, "good.sh")
    mask = os.umask(0o077)
    try:
        second = build(folder, store, "good.sh")
    finally:
        os.umask(mask)
    assert first.rootfs == second.rootfs
    with tarfile.open(fileobj=io.BytesIO(read_blob(store, first.rootfs))) as tar:
        members = {member.name: member for member in tar}

        def text(name: str) -> str:
            file = tar.extractfile(name)
            assert file is not None
            return file.read().decode()

        assert text("etc/from-hook") == "colour = blue\n"
        assert "STORE" not in text("etc/hook-env")
        assert str(folder) not in text("etc/hook-env")
        assert text("usr/share/hello-extra/content") == "hello\n"
        assert text("etc/hostname") == "example\n"
        assert text("etc/machine-id") == ""
        can_be_written = [
            line.split()[0] for line in text("etc/system-image/writable-paths").splitlines() if line[0] == "/"
        ]
    assert not [name for name in members if name.startswith(("./", "/", "dev/"))]
    assert {"dev", "proc", "writable", "boot", "usr/lib/modules"} <= set(members)
    assert {path.removeprefix("/") for path in can_be_written} <= set(members), "what is not there is not mounted"
    assert members["etc/resolv.conf"].linkname == "../run/systemd/resolve/stub-resolv.conf"
    assert (members["etc/example.conf"].mode, members["etc/example.conf"].uid) == (0o644, 0)
    assert not {"etc/passwd-", "etc/shadow-", "usr/bin/apt", "usr/share/man/man1"} & set(members)
    assert "hello-extra\t1\n" in read_blob(store, first.manifest).decode()


def test_a_failing_hook_is_named(folder: Path, store: Store) -> None:
    with pytest.raises(BuildError, match="the hook speaks") as caught:
        build(folder, store, "bad.sh")
    assert "hook bad.sh: ended with status 7" in str(caught.value)
