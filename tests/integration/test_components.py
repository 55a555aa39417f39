"""Further tarballs of a version, from every kind of source, imported as users do: as a command, from a project file."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coreimage.signing import GnupgSigner, Role, create_keys
from tests.harness.original_server import DEVICE as ORIGINAL_DEVICE
from tests.harness.original_server import EDGE as ORIGINAL_EDGE
from tests.harness.original_server import original_tree
from tests.harness.server import Server, serve
from tests.harness.trees import NOW
from tests.harness.workshop import Workshop
from tests.integration.test_import import EDGE, PROJECT, published

DEVICE = "generic_amd64"
CHANNEL = "    boot_test: [bios]\n    import_policy: any\n    retention: {keep_count: 1}\n"


def tarball(*members: tuple[str, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid, member.uname = len(content), 0, 0, "root"
            tar.addfile(member, io.BytesIO(content))
    return plain.getvalue()


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    create_keys(tmp_path / "var/keys", bits=dict.fromkeys(Role, 2048))
    made = Workshop(tmp_path, ordinary=False)
    published(made, b"one")
    return made


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "web").mkdir()
    with serve(tmp_path / "web") as server:
        yield server


def configure(workshop: Workshop, *components: str) -> None:
    lines = "".join(f"      - {component}\n" for component in components)
    text = PROJECT.replace(CHANNEL, f"    boot_test: []\n    components:\n{lines}")
    assert lines in text
    (workshop.folder / "project.yaml").write_text(text)


def imported(workshop: Workshop) -> dict[str, Any]:
    (found,) = json.loads(workshop.coreimage("--project", "project.yaml", "--json", "import", EDGE).stdout)
    assert found["released"]
    return dict(found)


def refused(workshop: Workshop, status: int) -> str:
    said = workshop.coreimage("--project", "project.yaml", "import", EDGE, accept=(status,)).stderr
    assert "Traceback" not in said
    return said


def newest(workshop: Workshop) -> dict[str, Any]:
    path = workshop.folder / f"var/store/system-image/{EDGE}/{DEVICE}/index.json"
    return [image for image in json.loads(path.read_bytes())["images"] if image["type"] == "full"][-1]  # type: ignore[no-any-return]


def members(workshop: Workshop, name: str) -> dict[str, tarfile.TarInfo]:
    (file,) = [file for file in newest(workshop)["files"] if file["path"].startswith(f"/pool/{name}-")]
    with tarfile.open(workshop.folder / f"var/store/system-image{file['path']}") as tar:
        return {member.name: member for member in tar}


def verified(workshop: Workshop) -> None:
    assert workshop.result("verify")["findings"] == []


def test_a_tarball_of_this_machine(workshop: Workshop) -> None:
    custom = workshop.folder / "custom.tar.gz"
    custom.write_bytes(tarball(("system/custom/name", b"mine")))
    configure(workshop, "{name: custom, file: custom.tar.gz}")
    assert imported(workshop)["version"] == 1
    files = [file["path"].rpartition("/")[2].partition("-")[0] for file in newest(workshop)["files"]]
    assert files == ["ubuntu", "device", "custom", "version"]
    assert "custom=" in newest(workshop)["version_detail"]
    assert imported(workshop)["version"] == 1, "nothing is new"
    custom.write_bytes(tarball(("system/custom/name", b"ours")))
    assert imported(workshop)["version"] == 2, "the build is the same, the component is not"
    verified(workshop)
    custom.unlink()
    assert "custom.tar.gz" in refused(workshop, 2)


def test_a_web_server_with_a_number_to_watch(workshop: Workshop, web: Server) -> None:
    number, vendor = workshop.folder / "web/number", workshop.folder / "web/vendor.tar.gz"
    number.write_text("17\n")
    vendor.write_bytes(tarball(("system/vendor/name", b"one")))
    configure(workshop, f"{{name: vendor, url: '{web.url}/vendor.tar.gz', monitor: '{web.url}/number'}}")
    assert imported(workshop)["version"] == 1
    assert "vendor=17" in newest(workshop)["version_detail"]
    vendor.write_bytes(tarball(("system/vendor/name", b"two")))
    assert imported(workshop)["version"] == 1, "who watches a number takes what was there with it"
    number.write_text("18\n")
    assert imported(workshop)["version"] == 2
    assert "vendor=18" in newest(workshop)["version_detail"]
    number.write_text("19\n20\n")
    assert "one build number" in refused(workshop, 3)
    number.unlink()
    refused(workshop, 1)
    assert newest(workshop)["version"] == 2
    verified(workshop)


def test_a_web_server_without_a_number(workshop: Workshop, web: Server) -> None:
    vendor = workshop.folder / "web/vendor.tar.gz"
    vendor.write_bytes(tarball(("system/vendor/name", b"one")))
    configure(workshop, f"{{name: vendor, url: '{web.url}/vendor.tar.gz'}}")
    assert [imported(workshop)["version"], imported(workshop)["version"]] == [1, 1]
    vendor.write_bytes(tarball(("system/vendor/name", b"two")))
    assert imported(workshop)["version"] == 2
    verified(workshop)


def test_a_keyring_for_images_of_others(workshop: Workshop) -> None:
    configure(workshop, "{name: keyring, keyring: archive-master}")
    assert imported(workshop)["version"] == 1
    found = members(workshop, "keyring")
    name = "system/usr/share/system-image/archive-master.tar.xz"
    assert list(found) == [name, f"{name}.asc"]
    assert {(member.uid, member.gid, member.mode) for member in found.values()} == {(0, 0, 0o644)}
    assert all(member.mtime > 0 for member in found.values())
    assert imported(workshop)["version"] == 1
    verified(workshop)


OTHER = f"server: 'original', keyring: top.tar.xz, channel: {ORIGINAL_EDGE}, device: {ORIGINAL_DEVICE}"


def test_another_server_is_verified_before_anything_is_signed_again(workshop: Workshop) -> None:
    folder = workshop.folder / "original"
    create_keys(workshop.folder / "others-keys", bits=dict.fromkeys(Role, 2048))
    original_tree(folder, GnupgSigner(workshop.folder / "others-keys"), NOW.timestamp())
    top = workshop.folder / "top.tar.xz"
    top.write_bytes((folder / "gpg/archive-master.tar.xz").read_bytes())
    configure(workshop, f"{{name: maker, image: {{{OTHER}, component: device}}}}")
    assert "legacy" in refused(workshop, 3)
    configure(workshop, f"{{name: maker, image: {{{OTHER}, component: device, legacy: true}}}}")
    assert imported(workshop)["version"] == 1
    assert "maker=3" in newest(workshop)["version_detail"]
    assert set(members(workshop, "maker")) == {"assets/vmlinuz", "assets/initrd.img", "hardware.yaml"}
    verified(workshop)

    index = folder / ORIGINAL_EDGE / ORIGINAL_DEVICE / "index.json"
    (device,) = [
        file for file in json.loads(index.read_bytes())["images"][-2]["files"] if "/pool/device-" in file["path"]
    ]
    pool = folder / device["path"].lstrip("/")
    good = pool.read_bytes()
    pool.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused(workshop, 3)
    pool.write_bytes(good)
    index.write_bytes(index.read_bytes().replace(b"../", b"./").replace(b"/pool/", b"/pool/../"))
    refused(workshop, 3)
    top.write_bytes((workshop.folder / "var/store/system-image/gpg/archive-master.tar.xz").read_bytes())
    refused(workshop, 3)
    assert newest(workshop)["version"] == 1


def test_an_older_tree_of_another_server_is_not_believed(workshop: Workshop, tmp_path: Path) -> None:
    """The other server is one of ours: what it binds was seen, and is asked for ever after."""
    (tmp_path / "other").mkdir()
    create_keys(tmp_path / "other/var/keys", bits=dict.fromkeys(Role, 2048))
    other = Workshop(tmp_path / "other", ordinary=False)
    published(other, b"theirs")
    (other.folder / "extra.tar.gz").write_bytes(tarball(("system/extra", b"1")))
    configure(other, "{name: extra, file: extra.tar.gz}")
    imported(other)
    www = other.folder / "var/store/system-image"
    before = (www / "channels.json.gpg").read_bytes()
    (other.folder / "extra.tar.gz").write_bytes(tarball(("system/extra", b"2")))
    imported(other)
    (workshop.folder / "top.tar.xz").write_bytes((www / "gpg/archive-master.tar.xz").read_bytes())
    source = f"server: '{www}', keyring: top.tar.xz, channel: {EDGE}"
    configure(workshop, f"{{name: extra, image: {{{source}}}}}")
    assert imported(workshop)["version"] == 1
    now = (www / "channels.json.gpg").read_bytes()
    (www / "channels.json.gpg").write_bytes(before)
    assert "old channels are served" in refused(workshop, 3)
    (www / "channels.json.gpg").write_bytes(now)
    assert imported(workshop)["version"] == 1
    configure(workshop, f"{{name: none, image: {{{source}}}}}")
    assert "it has device, extra, ubuntu, version" in refused(workshop, 1)


def test_a_part_of_another_channel_is_shared(workshop: Workshop) -> None:
    (workshop.folder / "custom.tar.gz").write_bytes(tarball(("system/custom/name", b"mine")))
    configure(workshop, "{name: custom, file: custom.tar.gz}")
    imported(workshop)
    theirs = newest(workshop)["files"][2]
    text = (workshop.folder / "project.yaml").read_text()
    tested = '  debian-core/13/tested: {series: "13", devices: [generic_amd64], import_policy: good}\n'
    assert tested in text
    following = f"boot_test: [], components: [{{name: custom, image: {{channel: {EDGE}}}}}]"
    text = text.replace(tested, f'  debian-core/13/next: {{series: "13", devices: [{DEVICE}], {following}}}\n')
    (workshop.folder / "project.yaml").write_text(text)
    workshop.coreimage("--project", "project.yaml", "import", "debian-core/13/next")
    index = workshop.folder / f"var/store/system-image/debian-core/13/next/{DEVICE}/index.json"
    assert json.loads(index.read_bytes())["images"][0]["files"][2] == theirs
    verified(workshop)


HOSTILE = {
    "traversal": ("system/../../etc/x", tarfile.REGTYPE, ""),
    "absolute": ("/system/x", tarfile.REGTYPE, ""),
    "device node": ("system/x", tarfile.CHRTYPE, ""),
    "elsewhere": ("data/x", tarfile.REGTYPE, ""),
    "link out": ("system/x", tarfile.LNKTYPE, "../x"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tarballs_are_not_signed(kind: str, workshop: Workshop) -> None:
    name, of_type, link = HOSTILE[kind]
    member = tarfile.TarInfo(name)
    member.type, member.linkname = of_type, link
    with tarfile.open(workshop.folder / "custom.tar.gz", "w:gz") as tar:
        tar.addfile(member)
    configure(workshop, "{name: custom, file: custom.tar.gz}")
    refused(workshop, 3)
    assert not list((workshop.folder / "var/store/system-image/pool").glob("custom-*"))


def test_nothing_is_written_through_a_link_of_the_rootfs(workshop: Workshop) -> None:
    (workshop.folder / "custom.tar.gz").write_bytes(tarball(("system/lib/custom", b"mine")))
    configure(workshop, "{name: custom, file: custom.tar.gz}")
    assert "goes through the symbolic link 'system/lib'" in refused(workshop, 3)
    (workshop.folder / "custom.tar.gz").write_bytes(tarball(("system/usr/lib/custom", b"mine")))
    assert imported(workshop)["version"] > 0


@pytest.mark.parametrize(
    ("component", "problem"),
    [
        ("{name: custom}", "name one source"),
        ("{name: custom, file: a, url: b}", "name one source"),
        ("{name: ubuntu, file: a}", "choose another name"),
        ("{name: x, file: a, monitor: b}", "fetched again"),
        ("{name: x, image: {channel: c, server: s}}", "go together"),
        ("{name: x, fil: a}", "did you mean 'file'"),
        ("{name: x, file: a}\n      - {name: x, file: b}", "same name"),
    ],
)
def test_what_cannot_be_configured(component: str, problem: str, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, ordinary=False)
    configure(workshop, component)
    assert problem in refused(workshop, 2)
