"""Gadgets as snaps, and in `oem/`: real squashfs, real signatures, a disk made of each that is shipped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coreimage.client import NotPresentError, RepositoryError, Session
from coreimage.disk_image import (
    ImageIdentity,
    assemble,
    describe_gadget,
    fetch_gadget,
    image_architecture,
    load_gadget,
    open_gadget,
    pack_snap,
    publish_gadget,
)
from coreimage.disk_image.gadget.published import pointer_path
from coreimage.disk_image.table import read_partitions
from coreimage.errors import BuildError, ConfigError, VerificationError
from coreimage.host.process import Completed, run
from coreimage.signing import Role, Signer
from coreimage.storage import Store
from coreimage.system_image import ChannelTree, publish_keyrings
from coreimage.system_image.web import GpgvVerify, StoreWeb
from tests.boot.synthetic import EPOCH, GADGET, tarball
from tests.harness.trees import NOW, now, released

UBOOT = GADGET.parent / "uboot_arm64"


@pytest.fixture
def session(store: Store, signer: Signer) -> Session:
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer)
    with store.open("system-image/gpg/archive-master.tar.xz") as file:
        return Session(StoreWeb(store), GpgvVerify(), file.read(), NOW.timestamp)


def test_a_snap_is_the_same_from_everywhere_and_comes_back(tmp_path: Path) -> None:
    first = pack_snap(GADGET, tmp_path / "a.snap", run=run)
    folder = open_gadget(first, tmp_path, run=run)
    previous = os.umask(0o077)
    try:
        second = pack_snap(folder, tmp_path / "b.snap", run=run)
    finally:
        os.umask(previous)
    assert second.read_bytes() == first.read_bytes()
    assert load_gadget(folder) == load_gadget(GADGET)
    assert describe_gadget(folder).device == "generic_amd64"


def test_what_is_no_gadget_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.snap").write_bytes(b"nonsense")
    with pytest.raises(VerificationError, match="is no snap"):
        open_gadget(tmp_path / "x.snap", tmp_path, run=run)
    whole = pack_snap(GADGET, tmp_path / "whole.snap", run=run).read_bytes()
    (tmp_path / "x.snap").write_bytes(whole[:200])
    with pytest.raises(VerificationError, match="is a damaged snap"):
        open_gadget(tmp_path / "x.snap", tmp_path, run=run)
    linked = tmp_path / "linked"
    (linked / "meta").mkdir(parents=True)
    (linked / "meta" / "gadget.yaml").write_text((UBOOT / "meta" / "gadget.yaml").read_text())
    (linked / "meta" / "snap.yaml").write_text("name: x\n")
    (linked / "boot.cmd").write_text("boot\n")
    with pytest.raises(ConfigError, match=r"snap\.yaml:1: architectures"):
        pack_snap(linked, tmp_path / "y.snap", run=run)
    (linked / "boot.cmd").unlink()
    (linked / "boot.cmd").symlink_to("/etc/passwd")
    run(["mksquashfs", linked, tmp_path / "z.snap", "-no-progress", "-quiet"])
    with pytest.raises(ConfigError, match="leaves the gadget folder"):
        open_gadget(tmp_path / "z.snap", tmp_path / "out", run=run)


def _tools_run(argv: Sequence[str | Path], **effects: Any) -> Completed:
    """Like a tools tree, which has no gpgv."""
    assert argv[0] != "gpgv"
    return run(argv, **effects)


def test_a_published_gadget_is_fetched_by_its_name(
    store: Store, signer: Signer, session: Session, tmp_path: Path
) -> None:
    published = publish_gadget(GADGET, store=store, signer=signer, run=run)
    before = {info.key: info.etag for info in store.list("oem/")}
    assert publish_gadget(GADGET, store=store, signer=signer, run=_tools_run) == published
    assert {info.key: info.etag for info in store.list("oem/")} == before

    empty, web = StoreWeb(store, root="nothing/"), StoreWeb(store, root="oem/")
    folder = fetch_gadget("generic-amd64", tmp_path, webs=[empty, web], open_message=session.message, run=run)

    assert load_gadget(folder) == load_gadget(GADGET)
    with pytest.raises(NotPresentError, match="no gadget 'generic-arm64'"):
        fetch_gadget("generic-arm64", tmp_path, webs=[empty, web], open_message=session.message, run=run)


def test_a_gadget_by_another_hand_or_name_is_refused(
    store: Store, signer: Signer, session: Session, tmp_path: Path
) -> None:
    published = publish_gadget(GADGET, store=store, signer=signer, run=run)
    webs = [StoreWeb(store, root="oem/")]

    def put(name: str, role: Role, **changes: object) -> None:
        document = json.dumps({**published.model_dump(), **changes}).encode()
        store.put_bytes(f"oem/{pointer_path(name)}", signer.inline(role, document), media_type="application/pgp")

    put("generic-amd64", Role.CDIMAGE)
    with pytest.raises(RepositoryError):
        fetch_gadget("generic-amd64", tmp_path, webs=webs, open_message=session.message, run=run)
    put("other", Role.IMAGE_SIGNING)
    with pytest.raises(RepositoryError, match="is of the gadget generic-amd64"):
        fetch_gadget("other", tmp_path, webs=webs, open_message=session.message, run=run)
    put("generic-amd64", Role.IMAGE_SIGNING, size_bytes=published.size_bytes - 1)
    with pytest.raises(RepositoryError, match="larger than"):
        fetch_gadget("generic-amd64", tmp_path, webs=webs, open_message=session.message, run=run)


def test_a_disk_for_a_board_with_u_boot(tmp_path: Path) -> None:
    rootfs = tarball(tmp_path / "rootfs.tar.gz", [("system", None, {}), ("system/etc/hostname", b"board\n", {})])
    device = tarball(
        tmp_path / "device.tar.gz",
        [
            ("hardware.yaml", b"kernel: assets/vmlinuz\ninitrd: assets/initrd.img\ndtbs: assets/dtbs\n", {}),
            ("assets/vmlinuz", b"kernel", {}),
            ("assets/initrd.img", b"initrd", {}),
            ("assets/dtbs/vendor/board.dtb", b"tree", {}),
        ],
    )
    identity = ImageIdentity(channel="c/1/edge", device="uboot_arm64", version=1, architecture="arm64", epoch=EPOCH)
    made = assemble([rootfs, device], UBOOT, identity, tmp_path / "board.img", run=run, work_folder=tmp_path)
    partitions = {entry.name: entry for entry in read_partitions(made.path)}
    assert list(partitions) == ["system-boot", "system-a", "system-b", "writable"]
    place = f"{made.path}@@{partitions['system-boot'].offset_bytes}"
    listing = set(run(["mdir", "-/", "-b", "-i", place, "::"]).output.split())
    assert {f"::/{name}" for name in ("boot.scr", "coreimage.env", "a/vmlinuz", "a/dtbs/vendor/board.dtb", "b/")} <= (
        listing
    )
    assert not [name for name in listing if "grub" in name.lower() or name.startswith("::/EFI")]
    assert run(["mtype", "-i", place, "::coreimage.env"]).output == "slot=a\ntries=0\n"
    assert b"coreimage: slot" in (tmp_path / "board.img").read_bytes()[4 << 20 : 64 << 20]
    assert image_architecture(made.path, run=run) == "arm64", "it says itself what it is"
    for name in ("system-a", "writable"):
        run(["e2fsck", "-f", "-n", f"{made.path}?offset={partitions[name].offset_bytes}"])


def test_two_files_in_one_place_are_refused(tmp_path: Path) -> None:
    gadget = tmp_path / "gadget"
    (gadget / "meta").mkdir(parents=True)
    text = (UBOOT / "meta" / "gadget.yaml").read_text()
    item = "          - source: boot.cmd\n            target: boot.scr\n"
    (gadget / "meta" / "gadget.yaml").write_text(text.replace(item, item + item))
    (gadget / "boot.cmd").write_text("boot\n")
    device = tarball(
        tmp_path / "device.tar.gz",
        [
            ("hardware.yaml", b"kernel: assets/vmlinuz\ninitrd: assets/vmlinuz\n", {}),
            ("assets/vmlinuz", b"kernel", {}),
        ],
    )
    identity = ImageIdentity(channel="c/1/edge", device="uboot_arm64", version=1, architecture="arm64", epoch=EPOCH)
    with pytest.raises(BuildError, match=r"structure system-boot: two of its files go to boot\.scr"):
        assemble([device], gadget, identity, tmp_path / "board.img", run=run, work_folder=tmp_path)
