from __future__ import annotations

import tarfile
from datetime import UTC, datetime
from typing import Any

import pytest

from coreimage.errors import NotFoundError, UsageError
from coreimage.model import ArtifactRef, PublishedBuild, PublishedFile, Server
from coreimage.system_image.customise import appended
from coreimage.system_image.documents import channels_with, generated_at, json_bytes, newest_version
from coreimage.system_image.importer import architecture_of, select_files
from coreimage.system_image.version_tarball import channel_ini, version_tarball

REF = ArtifactRef(uri="x", sha256="0" * 64, size_bytes=1, media_type="x")


def test_generated_at_is_in_the_c_locale() -> None:
    assert generated_at(datetime(2026, 11, 3, 8, 4, 20, tzinfo=UTC)) == "Tue Nov 03 08:04:20 UTC 2026"


def test_json_is_written_as_the_original_server_does() -> None:
    assert (
        json_bytes({"b": 1, "a": {"ä": True}}) == '{\n    "a": {\n        "ä": true\n    },\n    "b": 1\n}\n'.encode()
    )


def test_moving_one_device_leaves_the_others() -> None:
    other: dict[str, Any] = {"devices": {"x": {"index": "/other"}}, "hidden": True}
    before: dict[str, Any] = {"other": other, "edge": {"devices": {"a": {"index": "/a", "keyring": {}}}}}
    after = channels_with(channels_with(before, "edge", "a", "1" * 64), "new", "b", "2" * 64)
    assert after["other"] == other
    assert after["edge"]["devices"]["a"]["keyring"] == {}
    assert after["new"]["devices"]["b"]["index"] == f"/new/b/index-{'2' * 64}.json"
    assert before["edge"]["devices"]["a"]["index"] == "/a"


def test_numbers_start_after_the_newest() -> None:
    assert newest_version([]) == 0
    assert newest_version([{"version": 3}, {"version": 9}, {"version": 4}]) == 9


@pytest.mark.parametrize(("kind", "modules"), [(tarfile.SYMTYPE, "usr/lib/modules"), (tarfile.DIRTYPE, "lib/modules")])
def test_modules_mount_point_follows_the_base(kind: bytes, modules: str) -> None:
    assert [member.name for member in appended({"lib": kind})] == ["writable", modules, "etc/mtab"]
    assert [
        member.name for member in appended({"lib": kind, modules: tarfile.DIRTYPE, "writable": tarfile.DIRTYPE})
    ] == ["etc/mtab"]


@pytest.mark.parametrize(
    ("device", "expected"),
    [("generic_amd64", "amd64.device"), ("azure_amd64", "amd64.azure.device"), ("generic_arm64", "arm64.device")],
)
def test_device_names_its_file(device: str, expected: str) -> None:
    names = ["amd64", "amd64.device", "amd64.azure.device", "arm64", "arm64.device"]
    files = tuple(PublishedFile(name=f"trixie-preinstalled-core-{name}.tar.gz", artifact=REF) for name in names)
    build = PublishedBuild(
        project="p",
        series="13",
        image_type="t",
        build_id="20261123",
        prefix="x",
        files=files,
        checksums=REF,
        signature=REF,
    )
    rootfs, raw_device = select_files(build, device)
    assert raw_device.name == f"trixie-preinstalled-core-{expected}.tar.gz"
    assert rootfs.name == f"trixie-preinstalled-core-{architecture_of(device)}.tar.gz"
    with pytest.raises(NotFoundError, match="0 files"):
        select_files(build.model_copy(update={"files": ()}), device)


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(NotFoundError, match="mako"):
        architecture_of("mako")


def test_channel_ini_has_the_keys_in_order() -> None:
    server = Server(base="updates.example", http_port=None, https_port=8443)
    assert channel_ini("edge", "generic_amd64", 7, "ubuntu=1,version=7", server=server) == (
        "[service]\nbase: updates.example\nhttp_port: disabled\nhttps_port: 8443\nchannel: edge\n"
        "device: generic_amd64\nbuild_number: 7\nversion_detail: ubuntu=1,version=7\n"
    )


def test_percent_is_refused() -> None:
    with pytest.raises(UsageError, match="%"):
        channel_ini("edge", "d", 7, "100%", server=Server())


def test_version_tarball_is_the_same_each_time() -> None:
    first, second = (version_tarball("edge", "d", 7, "version=7", server=Server(), mtime=9) for _ in range(2))
    assert first == second
