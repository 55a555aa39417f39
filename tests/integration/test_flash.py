"""`flash` and `query` as a user types them, over a real tree: in the own store, over HTTP, and without any server."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml

from coreimage.cli.app import run as coreimage
from coreimage.disk_image import publish_gadget, sparse_sha256
from coreimage.disk_image.table import read_partitions
from coreimage.host.process import run
from coreimage.signing import Signer
from coreimage.storage import open_store
from coreimage.system_image import ChannelTree, publish_keyrings
from tests.boot.synthetic import GADGET, Member, tarball
from tests.harness import original_server
from tests.harness.ordinary_user import as_ordinary_user
from tests.harness.proxy import Fault, faulty, reset, slow, truncate
from tests.harness.server import Reply, serve
from tests.harness.trees import CHANNEL, DEVICE, NOW, now, released, rootfs_tarball

KEY = "ssh-ed25519 " + "A" * 68 + " me@here"
FLASH = ["flash", "core", "13", "--channel", "edge", "--login-key", "key.pub", "--no-bmap"]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Path:
    """A store with versions 1 and 2, and a gadget."""
    folder = tmp_path_factory.mktemp("tree") / "store"
    store = open_store(str(folder))
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    released(store, signer, "20261124", b"two")
    publish_gadget(GADGET, store=store, signer=signer, run=run)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing but a key, a cache of its own beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "key.pub").write_text(f"{KEY}\n")
    monkeypatch.chdir(folder)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/tools").symlink_to(Path(os.environ["COREIMAGE_CACHE"]) / "tools")
    monkeypatch.setenv("COREIMAGE_CACHE", str(tmp_path / "cache"))
    return folder


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in {"key.pub", "var"})


def _record(image: Path) -> dict[str, dict[str, object]]:
    boot = next(entry for entry in read_partitions(image) if entry.name == "system-boot")
    text = run(["mtype", "-i", f"{image}@@{boot.offset_bytes}", "::EFI/coreimage/install.yaml"]).output
    loaded: dict[str, dict[str, object]] = yaml.safe_load(text)
    return loaded


def _system(image: Path, path: str) -> str:
    return _debugfs(image, f"cat {path}")


def _debugfs(image: Path, command: str) -> str:
    entry = next(entry for entry in read_partitions(image) if entry.name == "system-a")
    return run(["debugfs", "-R", command, f"{image}?offset={entry.offset_bytes}"]).output


def _served(tree: Path) -> list[str]:
    return ["--keyring", str(tree / "system-image/gpg/archive-master.tar.xz")]


def test_the_transcript_is_that_of_2015(tree: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert coreimage(["--store", str(tree), *FLASH, "--output", "x86.img", "-v"]) == 0
    said = capfd.readouterr()
    story = [line for line in said.err.splitlines() if not line.startswith(" ")]
    assert story[:5] == [
        "Determining oem configuration",
        "No tools are offered: this machine's programs make the image: another machine's may write other bytes",
        "Fetching information from server...",
        "Downloading and setting up...",
        f"Installing {DEVICE}",
    ]
    assert said.out.splitlines()[:6] == [
        "New image complete",
        "Summary:",
        " Output: x86.img",
        " Architecture: amd64",
        f" Channel: edge ({CHANNEL})",
        " Version: 2",
    ]
    assert "Launch by running: qemu-system-x86_64 -m 768" in said.out
    assert "two" in _system(Path("x86.img"), "/etc/issue")
    assert _record(Path("x86.img"))["meta"]["initial-version"] == 2
    assert _left(here) == ["x86.img"]


def test_revisions_count_back_or_are_versions(tree: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for words, version in (["--revision", "-1"], 1), (["--revision", "1"], 1), ([], 2):
        query = ["--store", str(tree), "--json", "query", "--show-image", "--channel", CHANNEL, *words]
        assert coreimage(query) == 0
        assert json.loads(capfd.readouterr().out)["version"] == version
    assert coreimage(["--store", str(tree), *FLASH, "--output", "x.img", "--revision", "-9"]) == 1
    assert "no full image for revision -9 (versions there are: 2, 1)" in capfd.readouterr().err
    assert _left(here) == []


def test_query_answers_in_the_words_of_2015(tree: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert coreimage(["--store", str(tree), "query", "--list-channels", "--device", DEVICE]) == 0
    assert capfd.readouterr().out == f"{CHANNEL}\n"
    assert coreimage(["--store", str(tree), "query", "--list-channels", "--device", "other"]) == 0
    assert capfd.readouterr().out.strip() == ""
    assert coreimage(["--store", str(tree), "query", "--list-images", "--channel", CHANNEL, "--device", DEVICE]) == 0
    lines = sorted(capfd.readouterr().out.splitlines())
    assert [line.partition("=")[0] for line in lines] == ["1: description", "2: description"]
    words = ["--store", str(tree), "query", "--show-image", "--channel", CHANNEL]
    assert coreimage(words) == 0
    shown = capfd.readouterr().out.splitlines()
    assert [shown[0], *shown[2:5]] == [f"Device: {DEVICE}", "Version: 2", f"Channel: {CHANNEL}", "Files:"]
    assert len(shown) == 8
    order, url, size, sha256 = shown[5].split()
    file = Path(url.removeprefix("file://"))
    assert (order, int(size)) == ("0", file.stat().st_size)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def test_the_manual_of_2015_is_asked_for_in_another_way(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MANPAGE", "1")
    assert coreimage([*FLASH, "-o", "x.img"]) == 2
    assert "coreimage man" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "hint"),
    [
        (["query"], 2, "--list-channels, --list-images or --show-image"),
        (["query", "--list-images"], 2, "name it with --channel"),
        (["query", "--list-images", "--channel", "x/y/z"], 1, "there is no channel 'x/y/z'"),
        ([*FLASH], 2, "Missing option '-o' / '--output'"),
        ([*FLASH, "-o", "x.img", "-s", "3"], 2, "minimum size for core is 4"),
        ([*FLASH, "-o", "x.img", "--store", "mine"], 2, "--oem FILE"),
        ([*FLASH, "-o", "x.img", "--install", "webdm"], 2, "project file"),
        ([*FLASH, "-o", "x.img", "--tls-skip-verify"], 2, "REQUESTS_CA_BUNDLE"),
        (["flash", "--tls-skip-verify", "core", "13", "-o", "x.img"], 2, "REQUESTS_CA_BUNDLE"),
        (["query", "--list-channels", "--tls-skip-verify"], 2, "REQUESTS_CA_BUNDLE"),
        (["flash", "--tls-skip-verify", "query", "--list-channels"], 2, "REQUESTS_CA_BUNDLE"),
        (["flash", "query", "-v", "--clean-cache", "--download-only"], 2, "--list-channels, --list-images"),
        (
            ["flash", "--revision", "-1", "personal", "15.04", "-o", "x.img", "--device", "generic_amd64"],
            2,
            "flash core",
        ),
        (["flash", "touch", "--bootstrap", "--serial", "0123"], 2, "UBports"),
        ([*FLASH, "-o", "x.img", "--cloud", "--enable-ssh"], 2, "cannot be used together"),
        ([*FLASH, "-o", "x.img", "--format", "qcow2", "--compress", "xz"], 2, "leave out --compress"),
        ([*FLASH, "-o", "x.img", "--offline"], 2, "--offline needs --rootfs-part and --device-part"),
        ([*FLASH, "-o", "x.img", "--image-version", "3"], 2, "--revision chooses"),
        ([*FLASH, "-o", "x.img", "--device-part", "key.pub", "--require-signed"], 2, "nobody signed"),
        ([*FLASH, "-o", "x.img", "--hostname", "my_host"], 2, "is not a host name"),
        ([*FLASH, "-o", "x.img", "--cloud-init", "key.pub"], 2, "first line"),
        ([*FLASH, "-o", "x.img", "--oem", "nothing"], 1, "--oem"),
        ([*FLASH, "-o", "x.img", "--oem", "key.pub"], 3, "is no snap"),
        ([*FLASH, "-o", "x.img", "--oem", "generic-arm64", "--device", DEVICE], 2, "is for arm64"),
        ([*FLASH, "-o", "x.img", "--device-part", "key.pub"], 3, "is not a tarball"),
        ([*FLASH, "-o", "key.pub"], 2, "--force"),
    ],
)
def test_what_is_refused_says_what_to_do(  # noqa: PLR0917
    tree: Path, here: Path, capfd: pytest.CaptureFixture[str], words: list[str], status: int, hint: str
) -> None:
    assert coreimage(["--store", str(tree), *words]) == status
    assert hint in capfd.readouterr().err
    assert _left(here) == []


def test_a_cut_download_goes_on_and_a_warm_cache_needs_no_payload(tree: Path, here: Path, tmp_path: Path) -> None:
    web = tree / "system-image"
    words = [*FLASH, *_served(tree), "--device", DEVICE, "--oem", str(GADGET), "--force", "--output", "x.img"]
    with serve(web) as server:
        assert coreimage([*words, "--server", server.url]) == 0
        first = [request.path for request in server.requests]
        assert coreimage([*words, "--server", server.url]) == 0
        second = [request.path for request in server.requests[len(first) :]]
    assert [path for path in first if path.startswith("/pool/") and not path.endswith(".asc")]
    assert [path for path in second if path.endswith((".tar.xz",)) and "/gpg/" not in path] == []
    for path in (tmp_path / "cache/downloads").iterdir():
        path.write_bytes(b"damaged")
    for path in (tmp_path / "cache/images").glob("*.img"):
        with path.open("r+b") as file:
            file.write(b"damaged")
    with serve(web) as server:
        assert coreimage([*words, "--server", server.url]) == 0
        assert [r.path for r in server.requests if r.path.startswith("/pool/") and not r.path.endswith(".asc")]


def test_the_same_image_again_is_copied(
    tree: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No filesystem is made and nothing is downloaded; another size, gadget or revision is another image."""
    words = [*FLASH, *_served(tree), "--device", DEVICE, "--oem", str(GADGET)]
    with serve(tree / "system-image") as server:
        assert coreimage([*words, "--server", server.url, "--output", "a.img"]) == 0
        before = len(server.requests)
        (tmp_path / "mke2fs").write_text("#!/bin/sh\nexit 1\n")
        monkeypatch.setattr("coreimage.disk_image.cached_images._program", lambda name: "the same")
        assert coreimage([*words, "--server", server.url, "--force", "--output", "a.img"]) == 0
        (tmp_path / "mke2fs").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        asked = len(server.requests)
        assert coreimage([*words, "--server", server.url, "--output", "b.img"]) == 0
        assert not [r.path for r in server.requests[asked:] if r.path.startswith("/pool/")]
        assert before
        for other in (["--size", "5"], ["--revision", "-1"], ["--developer-mode"]):
            assert coreimage([*words, "--server", server.url, "--output", "c.img", *other]) == 1
    run(["cmp", "a.img", "b.img"])


def test_a_wrong_byte_is_never_used(tree: Path, here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    web = tmp_path / "web"
    run(["cp", "-a", tree / "system-image", web])
    for pool in (web / "pool").glob("ubuntu-*.xz"):
        content = bytearray(pool.read_bytes())
        content[40] ^= 1
        pool.write_bytes(content)
    with serve(web) as server:
        words = [*FLASH, *_served(tree), "--server", server.url, "--device", DEVICE, "--output", "x.img"]
        assert coreimage(words) == 3
    assert "sha256 is" in capfd.readouterr().err
    assert _left(here) == []


def test_a_tree_of_the_original_server(
    signer: Signer, here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pairs, none of our keys; the files are left here, as `--download-only` of 2015 did."""
    original_server.original_tree(tmp_path / "original", signer, NOW.timestamp())
    channel = ["--channel", original_server.EDGE, "--device", original_server.DEVICE]
    keyring = ["--keyring", str(tmp_path / "original/gpg/archive-master.tar.xz"), "--legacy"]
    capfd.readouterr()
    with serve(tmp_path / "original") as server:
        words = ["flash", "--server", server.url, "core", "15.04", *channel]
        assert coreimage(["--json", *words, *keyring, "--download-only"]) == 0
    shown = json.loads(capfd.readouterr().out)
    kinds = [name.partition("-")[0] for name in shown["files"]]
    assert (shown["version"], kinds) == (3, ["ubuntu", "device", "version"])
    assert _left(here) == sorted(shown["files"])


def test_a_merged_usr_below_the_folders_of_the_original_server(here: Path, signer: Signer, tmp_path: Path) -> None:
    """`system/lib/modules` goes through the link `system/lib`, in the rootfs' tarball and in the device's."""
    root = tmp_path / "original"
    added = (original_server.MERGED_USR, original_server.MERGED_USR_DEVICE)
    original_server.original_tree(root, signer, NOW.timestamp(), *added)
    words = ["core", "15.04", "--channel", original_server.EDGE, "--device", original_server.DEVICE, "--legacy"]
    gadget = ["--oem", str(GADGET), "--keyring", str(root / "gpg/archive-master.tar.xz"), "--no-bmap"]
    with serve(root) as server:
        assert coreimage(["flash", "--server", server.url, *words, *gadget, "--output", "x.img"]) == 0
    image = Path("x.img")
    contents = {
        "/usr/lib/modules/3.19/one.ko": "module",
        "/usr/lib/modules/3.19/same.ko": "module",
        "/usr/lib/firmware/rootfs.bin": "of the rootfs",
        "/usr/lib/firmware/device.bin": "of the device",
        "/etc/issue": "version 3",
    }
    assert {path: _system(image, path).splitlines()[-1] for path in contents} == contents
    assert "Type: symlink" in _debugfs(image, "stat /lib")


@pytest.fixture
def parts(here: Path) -> list[str]:
    (here / "my-kernel.tar.gz").write_bytes(b"")
    tarball(
        here / "my-kernel.tar.gz",
        [
            ("hardware.yaml", b"kernel: assets/vmlinuz\ninitrd: assets/initrd.img\n", {}),
            ("assets/vmlinuz", b"Linux version 6.1.0-9-test (x)", {}),
            ("assets/initrd.img", b"initrd", {}),
            ("system/usr/lib/modules/6.1.0-9-test/modules.dep", b"", {}),
        ],
    )
    (here / "raw.rootfs.tar.gz").write_bytes(rootfs_tarball(b"mine"))
    return ["--rootfs-part", "raw.rootfs.tar.gz", "--device-part", "my-kernel.tar.gz"]


def test_both_parts_of_this_machine_need_no_server(parts: list[str], here: Path) -> None:
    words = [*FLASH, *parts, "--offline", "--image-version", "7", "--output", "my.img"]
    assert coreimage(["--store", str(here / "nothing"), *words]) == 0
    image = here / "my.img"
    assert "mine" in _system(image, "/etc/issue")
    ini = _system(image, "/etc/system-image/channel.ini")
    assert f"channel: {CHANNEL}\n" in ini
    assert "build_number: 7\n" in ini
    assert "version_detail: ubuntu=local,raw-device=local,version=7\n" in ini
    options = _record(image)["options"]
    assert str(options["rootfs-part"]).startswith("raw.rootfs.tar.gz sha256:")
    assert str(options["device-part"]).startswith("my-kernel.tar.gz sha256:")
    assert not (here / "nothing").exists()


def test_one_part_of_this_machine_replaces_the_servers(
    tree: Path, parts: list[str], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By its role: neither the part's name nor the folder that it lies in says `device`."""
    assert coreimage(["--store", str(tree), *FLASH, *parts[2:], "--output", "my.img"]) == 0
    assert "two" in _system(here / "my.img", "/etc/issue")
    assert set(_record(here / "my.img")["options"]) == {"device-part"}
    assert "gets no updates" in capfd.readouterr().err


def test_a_kernel_without_its_modules_is_refused(
    parts: list[str], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    members: list[Member] = [
        ("hardware.yaml", b"kernel: assets/vmlinuz\ninitrd: assets/initrd.img\n", {}),
        ("assets/vmlinuz", b"Linux version 6.1.0-8-test (x)", {}),
        ("assets/initrd.img", b"initrd", {}),
        ("system/usr/lib/modules/6.1.0-9-test/modules.dep", b"", {}),
    ]
    tarball(here / "my-kernel.tar.gz", members)
    assert coreimage([*FLASH, *parts, "--output", "my.img"]) == 1
    assert "the kernel is 6.1.0-8-test, and the modules are of 6.1.0-9-test" in capfd.readouterr().err
    assert not (here / "my.img").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_anywhere(tree: Path, here: Path, number: signal.Signals, tmp_path: Path) -> None:
    """The download hangs, so that the signal comes in the middle of it."""
    (here / "x.img").write_bytes(b"the old one")
    words = [*FLASH, *_served(tree), "--device", DEVICE, "--oem", str(GADGET), "--force", "--output", "x.img"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    hanging = [None] * 12 + [slow(20, 16)] * 40
    with faulty(tree / "system-image", *hanging) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "coreimage.cli", *words, "--server", server.url], env=environment, cwd=here
        )
        deadline = time.monotonic() + 60
        while not any(r.path.startswith("/pool/") for r in server.requests) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == (-9 if number == signal.SIGKILL else 130)
    assert (here / "x.img").read_bytes() == b"the old one"
    if number != signal.SIGKILL:
        assert _left(here) == ["x.img"]
    with serve(tree / "system-image") as server:
        assert coreimage([*words, "--server", server.url]) == 0
    assert (here / "x.img").stat().st_size == 3_899_999_744


def test_a_cut_connection_is_taken_up_again(signer: Signer, here: Path, tmp_path: Path) -> None:
    """Each time only the rest is asked for."""
    root = tmp_path / "original"
    original_server.original_tree(root, signer, NOW.timestamp())
    cuts = [truncate(100), truncate(100), reset()]

    def is_payload(path: str) -> bool:
        return path.startswith("/pool/ubuntu-") and path.endswith(".xz")

    def cut(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        (cuts.pop(0) if is_payload(handler.path) and cuts else Fault()).send(handler, reply)

    channel = ["--channel", original_server.EDGE, "--device", original_server.DEVICE]
    keyring = ["--keyring", str(root / "gpg/archive-master.tar.xz"), "--legacy"]
    with faulty(root, *[Fault(cut)] * 60) as server:
        words = ["flash", "--server", server.url, "core", "15.04", *channel, *keyring, "--download-only"]
        assert coreimage(words) == 0
        asked = [request for request in server.requests if is_payload(request.path)]
    assert [request.headers.get("range") for request in asked] == [None, "bytes=100-", "bytes=200-", "bytes=200-"]
    (left,) = here.glob("ubuntu-*.xz")
    assert left.read_bytes() == (root / asked[0].path.lstrip("/")).read_bytes()


# The command and all that it starts see another clock; files keep their own times, and time limits theirs.
_ANOTHER_DAY = """
import os, sys
from coreimage.host import environment, process
from coreimage.cli.app import main
environment._INHERITED += ("LD_PRELOAD", "FAKETIME", "NO_FAKE_STAT", "FAKETIME_DONT_FAKE_MONOTONIC")
assert process.run(["date", "+%j"]).output.strip() != sys.argv[1], "the clock is another"
main(sys.argv[2:])
"""
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "here": {"TZ": "Pacific/Auckland", "LC_ALL": "C.UTF-8", "umask": "022"},
    "settings": {"TZ": "America/New_York", "LC_ALL": "POSIX", "umask": "077"},
    "day": {"FAKETIME": "+3d", "NO_FAKE_STAT": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "umask": "022"},
    "user": {"TZ": "Asia/Kolkata", "umask": "027"},
}


def test_two_runs_in_other_environments_are_equal(tree: Path, here: Path, tmp_path: Path) -> None:
    """Another folder, umask, locale, time zone, day, user; the login by key included."""
    digests: dict[str, str] = {}
    for name, settings in ENVIRONMENTS.items():
        folder = tmp_path / f"in-{name}"
        folder.mkdir()
        run(["cp", "-a", tree, folder / "store"])
        run(["cp", "key.pub", folder / "key.pub"], cwd=here)
        run(["chmod", "-R", "a+rX", folder])
        kept = {key: value for key, value in settings.items() if key != "umask"}
        own = {**kept, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder), "COREIMAGE_CACHE": str(folder / "cache")}
        words = ["--store", str(folder / "store"), *FLASH[:-2], str(folder / "key.pub"), "--output"]
        started = ["-m", "coreimage.cli"]
        if name == "day":
            (own["LD_PRELOAD"],) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
            started = ["-c", _ANOTHER_DAY, datetime.now(UTC).strftime("%j")]
        settle = f'umask {settings["umask"]}; exec env {" ".join(f"{k}={v}" for k, v in own.items())} "$@"'
        argv = ["sh", "-c", settle, "sh", sys.executable, *started, *words, str(folder / f"{name}.img")]
        subprocess.run(as_ordinary_user(argv, folder) if name == "user" else argv, cwd=folder, check=True)
        digests[name] = sparse_sha256(folder / f"{name}.img")
    assert set(digests.values()) == {digests["here"]}, digests


def test_a_version_packed_with_zstd(here: Path, signer: Signer) -> None:
    store = open_store(str(here / "var/store"))
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer, compression="zstd")
    publish_gadget(GADGET, store=store, signer=signer, run=run)
    assert coreimage([*FLASH, "--output", "x.img"]) == 0
    assert "one" in _system(Path("x.img"), "/etc/issue")
