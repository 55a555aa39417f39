"""The custom tarball of a product: from a folder, through a published build, to what devices install."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from coreimage.client.apply import InstallRequest, find_upgrade
from coreimage.errors import UsageError
from coreimage.host.process import run
from coreimage.http import Downloader
from coreimage.model import TAR_GZ, PublishedBuild
from coreimage.project.loading import load_project
from coreimage.publication import publish_build
from coreimage.rootfs import build_custom
from coreimage.signing import GnupgSigner, Role, create_keys, make_keyring
from coreimage.storage import put_blob_bytes, read_blob
from coreimage.system_image.web import open_server
from tests.harness.strict_client import check_tree
from tests.harness.trees import device_tarball, rootfs_tarball
from tests.harness.workshop import Workshop
from tests.integration.test_import import EDGE, PROJECT
from tests.unit.publication.builds import content

DEVICE, BRAND = "generic_amd64", "system/usr/share/brand/name"
CUSTOM = "trixie-preinstalled-core-amd64.custom.tar.gz"


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    create_keys(tmp_path / "var/keys", bits=dict.fromkeys(Role, 2048))
    text = PROJECT.replace("[systemd-sysv]}\n", "[systemd-sysv]}\n    custom: {overlay: custom}\n")
    text = text.replace("boot_test: [bios]", "boot_test: []")
    assert "custom" in text
    (tmp_path / "project.yaml").write_text(text)
    (tmp_path / "custom/usr/share/brand").mkdir(parents=True)
    made = Workshop(tmp_path, ordinary=False)
    brand(made, "mine")
    return made


def brand(workshop: Workshop, name: str) -> None:
    (workshop.folder / "custom/usr/share/brand/name").write_text(name)


def published(workshop: Workshop, *, rootfs: bytes = b"one") -> PublishedBuild:
    store, project = workshop.store, load_project(workshop.folder / "project.yaml")
    described = content(store, rootfs.decode())
    core = described.rootfs[0].model_copy(update={"rootfs": put_blob_bytes(store, rootfs_tarball(rootfs), TAR_GZ)})
    board = described.devices[0].model_copy(update={"tarball": put_blob_bytes(store, device_tarball(), TAR_GZ)})
    custom = build_custom(project, EDGE, "amd64", core.lock, store=store, run=run)
    described = described.model_copy(update={"rootfs": (core,), "devices": (board,), "custom": (custom,)})
    signer = GnupgSigner(workshop.folder / "var/keys")
    return publish_build(described, store=store, signer=signer, now=datetime.now(UTC))


def imported(workshop: Workshop) -> int:
    (found,) = json.loads(workshop.coreimage("--project", "project.yaml", "--json", "import", EDGE).stdout)
    return int(found["version"])


def images(workshop: Workshop) -> list[dict[str, Any]]:
    path = workshop.folder / f"var/store/system-image/{EDGE}/{DEVICE}/index.json"
    return list(json.loads(path.read_bytes())["images"])


def test_a_build_publishes_it_and_a_version_has_it(workshop: Workshop) -> None:
    build = published(workshop)
    (file,) = [file for file in build.files if file.name == CUSTOM]
    assert f"{file.artifact.sha256} *{CUSTOM}\n" in read_blob(workshop.store, build.checksums).decode()
    assert imported(workshop) == 1
    (full,) = images(workshop)
    names = [file["path"].rpartition("/")[2].partition("-")[0] for file in full["files"]]
    assert names == ["ubuntu", "device", "custom", "version"]
    assert [file["order"] for file in full["files"]] == [0, 1, 2, 3]
    detail = full["version_detail"]
    assert detail == f"ubuntu={build.build_id},raw-device={build.build_id},custom={build.build_id},version=1"
    with tarfile.open(workshop.folder / f"var/store/system-image{full['files'][2]['path']}") as tar:
        member = tar.getmember(BRAND)
        assert (member.uid, member.gid, member.mode, member.mtime) == (0, 0, 0o644, 1_700_000_000)
    assert imported(workshop) == 1
    assert workshop.result("verify")["findings"] == []
    top = make_keyring("archive-master", GnupgSigner(workshop.folder / "var/keys").public_key(Role.ARCHIVE_MASTER))
    www = workshop.folder / "var/store/system-image"
    assert check_tree(www, top, now=datetime.now(UTC).timestamp()) == {(EDGE, DEVICE): [1]}


def test_when_it_alone_changes_a_delta_holds_it_alone(workshop: Workshop) -> None:
    first = published(workshop)
    assert published(workshop).build_id == first.build_id
    imported(workshop)
    brand(workshop, "ours")
    assert published(workshop).build_id != first.build_id
    assert imported(workshop) == 2
    (delta,) = [image for image in images(workshop) if image["type"] == "delta"]
    (changed,) = [file for file in delta["files"] if not file["path"].endswith("version-2.tar.xz")]
    plain = lzma.decompress((workshop.folder / f"var/store/system-image{changed['path']}").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        assert [member.name for member in tar if member.isreg()] == ["removed", BRAND]
    top = make_keyring("archive-master", GnupgSigner(workshop.folder / "var/keys").public_key(Role.ARCHIVE_MASTER))
    server = open_server((workshop.folder / "var/store/system-image").as_uri(), top, fetch=Downloader())
    assert find_upgrade(server, InstallRequest(EDGE, DEVICE)).version == 2


def test_a_component_of_the_same_name_is_refused(workshop: Workshop) -> None:
    published(workshop)
    project = workshop.folder / "project.yaml"
    component = "boot_test: []\n    components: [{name: custom, keyring: archive-master}]"
    project.write_text(project.read_text().replace("boot_test: []", component))
    said = workshop.coreimage("--project", "project.yaml", "import", EDGE, accept=(2,)).stderr
    assert "give the component another name" in said


def test_a_folder_that_is_not_there(workshop: Workshop) -> None:
    project, store = load_project(workshop.folder / "project.yaml"), workshop.store
    lock = content(store, "one").rootfs[0].lock
    (workshop.folder / "custom").rename(workshop.folder / "elsewhere")
    with pytest.raises(UsageError, match="overlay of the custom tarball is no folder"):
        build_custom(project, EDGE, "amd64", lock, store=store, run=run)
