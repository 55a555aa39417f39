"""`flash` makes its images with the tools of the build, whatever the machine has, where they are to be had."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from coreimage.cli.app import run as coreimage
from coreimage.client import Session
from coreimage.disk_image import publish_gadget, sparse_sha256, write_bmap
from coreimage.host.process import run
from coreimage.model import TAR_GZ, ArtifactRef, ToolsTree
from coreimage.operations.flash import ImageRecipe, flash
from coreimage.rootfs import offer_tools
from coreimage.signing import Signer
from coreimage.storage import Store, open_store, put_blob_bytes
from coreimage.system_image import ChannelTree, publish_keyrings
from coreimage.system_image.web import GpgvVerify, StoreWeb
from tests.boot.synthetic import GADGET
from tests.harness.server import serve
from tests.harness.tools import SharedTools
from tests.harness.trees import CHANNEL, DEVICE, now, released

pytestmark = pytest.mark.timeout(600)

KEY = "ssh-ed25519 " + "A" * 68 + " me@here"
FLASH = ["flash", "core", "13", "--channel", "edge", "--login-key", "key.pub", "--force"]
SHAPING = ("mke2fs", "mkfs.vfat", "mcopy", "mmd", "grub-mkimage", "debugfs", "xz", "unsquashfs")
"""The machine's tar and gzip unpack the tools."""


@pytest.fixture(scope="module")
def offering(tmp_path_factory: pytest.TempPathFactory, signer: Signer, tools: SharedTools) -> Path:
    """A store as a build leaves it: a version, a gadget, the tools."""
    folder = tmp_path_factory.mktemp("offering") / "store"
    store = open_store(str(folder))
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    publish_gadget(GADGET, store=store, signer=signer, run=run)
    tools.seed(folder)
    offer_tools(tools.local, "amd64", store=store, signer=signer)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a key; the shared cache has the tools unpacked, the images' is our own."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "key.pub").write_text(f"{KEY}\n")
    monkeypatch.chdir(folder)
    (tmp_path / "cache").mkdir()
    (Path(os.environ["COREIMAGE_CACHE"]) / "tools").mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache/tools").symlink_to(Path(os.environ["COREIMAGE_CACHE"]) / "tools")
    monkeypatch.setenv("COREIMAGE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def broken_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the machine's own programs that would shape bytes works."""
    (tmp_path / "broken").mkdir()
    for name in SHAPING:
        (tmp_path / "broken" / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "broken" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/broken:{os.environ['PATH']}")


def _served(offering: Path) -> list[str]:
    return ["--keyring", str(offering / "system-image/gpg/archive-master.tar.xz")]


def _assembled(store: Store, tools: SharedTools, folder: Path) -> str:
    """What the pipeline would make of it."""
    with store.open("system-image/gpg/archive-master.tar.xz") as file:
        session = Session(StoreWeb(store), GpgvVerify(), file.read(), lambda: now().timestamp())
    recipe = ImageRecipe(gadget_folder=GADGET, output=folder / "assembled.img", run=tools.run, work_folder=folder)
    return sparse_sha256(flash(session, CHANNEL, DEVICE, "amd64", recipe).path)


@pytest.mark.usefixtures("broken_machine")
def test_its_images_are_those_of_the_build(
    offering: Path, here: Path, tools: SharedTools, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert coreimage(["--store", str(offering), "--json", *FLASH, "--output", "own.img"]) == 0
    assert json.loads(capfd.readouterr().out)["tools"] == tools.local.tree.sha256
    (kept,) = (tmp_path / "cache/images").glob("*.img")
    assert sparse_sha256(kept) == _assembled(open_store(str(offering)), tools, tmp_path)
    with serve(offering) as server:
        words = [*FLASH, *_served(offering), "--device", DEVICE, "--server", f"{server.url}/system-image"]
        assert coreimage([*words, "--output", "fetched.img"]) == 0
    assert "No tools" not in capfd.readouterr().err
    for name in ("img", "img.bmap"):
        run(["cmp", f"own.{name}", f"fetched.{name}"])
    run(["cmp", write_bmap(Path("own.img"), tmp_path / "again.bmap", run=run), "own.img.bmap"])
    own = ["--oem", str(GADGET), "--host-tools", "--output", "x.img"]
    assert coreimage(["--store", str(offering), *FLASH, *own]) == 1, "the machine's are used"
    assert not Path("x.img").exists()


def test_tools_of_a_server_are_fetched_once(offering: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREIMAGE_CACHE", str(here / "var/fresh"))
    with serve(offering) as server:
        words = [*FLASH, *_served(offering), "--device", DEVICE, "--server", f"{server.url}/system-image"]
        for _ in range(2):
            assert coreimage([*words, "--output", "x.img"]) == 0
        asked = [request.path for request in server.requests if request.path.startswith("/oem/tools/amd64/")]
    assert len(asked) == 1


def test_a_word_is_said_where_none_are_offered(
    offering: Path, here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(offering / "system-image") as server:
        words = [*FLASH, *_served(offering), "--device", DEVICE, "--oem", str(GADGET), "--server", server.url]
        assert coreimage(["--json", *words, "--output", "x.img"]) == 0
    said = capfd.readouterr()
    assert "No tools are offered: this machine's programs make the image" in said.err
    assert json.loads(said.out)["tools"] is None


def test_a_word_is_said_where_they_cannot_run(
    offering: Path, here: Path, tmp_path: Path, signer: Signer, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on a machine that forbids namespaces, or of a distribution that they do not fit."""
    store = _copied(offering, tmp_path / "store")
    offer_tools(_empty_tree(store), "amd64", store=store, signer=signer)
    assert coreimage(["--store", store.url, *FLASH, "--output", "x.img"]) == 0
    assert "The offered tools cannot run here (true is not in the tools tree): this machine" in capfd.readouterr().err


def test_tools_that_nobody_signed_do_not_run(offering: Path, here: Path, tmp_path: Path, signer: Signer) -> None:
    store = _copied(offering, tmp_path / "store")
    bad = _empty_tree(store)
    offer_tools(bad, "amd64", store=store, signer=signer)
    packed = tmp_path / "store/oem/tools/amd64" / f"{bad.tree.sha256}.tar.gz"
    packed.write_bytes(packed.read_bytes()[:-1] + b"x")
    assert coreimage(["--store", store.url, *FLASH, "--output", "x.img"]) == 3
    with_other_key = tmp_path / "store/oem/tools/amd64.json.gpg"
    with_other_key.write_bytes((tmp_path / "store/oem/generic-amd64.json.gpg").read_bytes())
    assert coreimage(["--store", store.url, *FLASH, "--output", "x.img"]) == 3, "signed, and of a gadget"
    assert not Path("x.img").exists()


def test_the_tree_before_stays_for_whoever_read_its_name(offering: Path, tmp_path: Path, signer: Signer) -> None:
    store = _copied(offering, tmp_path / "store")
    before = [entry.key for entry in store.list("oem/tools/amd64/")]
    trees = [_empty_tree(store, number) for number in range(2)]
    for tree in (*trees, trees[-1]):
        offer_tools(tree, "amd64", store=store, signer=signer)
    left = [entry.key for entry in store.list("oem/tools/amd64/")]
    assert left == sorted(f"oem/tools/amd64/{tree.tree.sha256}.tar.gz" for tree in trees)
    assert before[0] not in left


def _copied(offering: Path, folder: Path) -> Store:
    run(["cp", "-a", offering, folder])
    return open_store(str(folder))


def _empty_tree(store: Store, number: int = 0) -> ToolsTree:
    """A tree without any program."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("usr", "etc", f"etc/{number}"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
    ref: ArtifactRef = put_blob_bytes(store, packed.getvalue(), TAR_GZ)
    return ToolsTree(tree=ref, lock=ref)
