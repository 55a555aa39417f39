"""Real mke2fs, mtools and GRUB on a tiny rootfs, read back with debugfs."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from coreimage.disk_image import (
    AssembledImage,
    Login,
    assemble,
    fetch_image,
    personalise,
    sparse_sha256,
    store_image,
)
from coreimage.disk_image.gpt import read_table
from coreimage.errors import BuildError, HostError, UsageError, VerificationError
from coreimage.host.process import run
from coreimage.signing import GnupgSigner, Role, verify_detached
from coreimage.storage import open_store
from tests.boot.synthetic import EPOCH, GADGET, IDENTITY, Member, device_tarball, tarball
from tests.harness.disk import debugfs, filesystem
from tests.harness.tools import SharedTools

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw+ep, as ping has it."""
MEMBERS: list[Member] = [
    ("system", None, {}),
    ("system/lib", b"", {"type": tarfile.SYMTYPE, "linkname": "usr/lib"}),
    ("system/usr/bin/su", b"su" * 4000, {"mode": 0o4755}),
    (
        "system/usr/bin/ping",
        b"ping" * 2000,
        {"mode": 0o755, "pax_headers": {"SCHILY.xattr.security.capability": CAPABILITY.decode()}},
    ),
    ("system/var/mail", None, {"uid": 8, "gid": 8, "mode": 0o2775}),
    ("system/home/nobody", b"x", {"uid": 65534, "gid": 65534, "mode": 0o600}),
    ("writable/system-data/seeded", b"seeded\n", {}),
    ("boot/NOTE.TXT", b"note\n", {}),
]


def _parts(folder: Path) -> list[Path]:
    rootfs = tarball(folder / "rootfs.tar.gz", MEMBERS)
    return [rootfs, device_tarball(folder / "my-kernel.tar.gz", b"kernel" * 10000, b"initrd" * 10000)]


def _assemble(folder: Path, name: str = "x86.img") -> AssembledImage:
    folder.mkdir(exist_ok=True)
    return assemble(_parts(folder), GADGET, IDENTITY, folder / name, run=run, work_folder=folder)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> AssembledImage:
    return _assemble(tmp_path_factory.mktemp("image"))


def _stat(image: Path, partition: str, path: str) -> tuple[str, int, int]:
    text = debugfs(image, partition, f"stat {path}")
    found = re.search(r"Mode:\s+(\d+).*?User:\s+(\d+)\s+Group:\s+(\d+)", text, re.DOTALL)
    assert found, text
    return found[1][-4:], int(found[2]), int(found[3])


def test_the_table_and_all_filesystems_are_sound(image: AssembledImage) -> None:
    assert "No problems found" in run(["sgdisk", "-v", image.path]).output
    for partition in ("system-a", "system-b", "writable"):
        run(["e2fsck", "-f", "-n", filesystem(image.path, partition)])
    boot = next(entry for entry in read_table(image.path) if entry.name == "system-boot")
    listing = run(["mdir", "-/", "-b", "-i", f"{image.path}@@{boot.offset_bytes}", "::"]).output.split()
    wanted = (
        "BOOT/BOOTX64.EFI",
        *(f"coreimage/{n}" for n in ("a/vmlinuz", "a/hardware.yaml", "b/", "grubenv", "grub.cfg")),
    )
    assert {f"::/EFI/{name}" for name in wanted} | {"::/NOTE.TXT"} <= set(listing)


def test_owners_modes_and_capabilities_survive(image: AssembledImage) -> None:
    assert _stat(image.path, "system-a", "/usr/bin/su") == ("4755", 0, 0)
    assert _stat(image.path, "system-a", "/var/mail") == ("2775", 8, 8)
    assert _stat(image.path, "system-a", "/home/nobody") == ("0600", 65534, 65534)
    listed = debugfs(image.path, "system-a", "ea_list /usr/bin/ping")
    assert CAPABILITY.hex(" ") in listed
    assert "seeded" in debugfs(image.path, "writable", "cat /system-data/seeded")


def test_no_time_but_the_epoch_gets_in(image: AssembledImage) -> None:
    times = re.findall(r"([acm]time|crtime): 0x(\w+)", debugfs(image.path, "system-a", "stat /usr/bin/su"))
    assert {(name, int(value, 16)) for name, value in times} == {
        ("atime", EPOCH),
        ("ctime", EPOCH),
        ("crtime", EPOCH),
        ("mtime", EPOCH - 1000),
    }


@pytest.mark.parametrize("by", ["the machine's mke2fs", "that of the tools tree"])
def test_contents_survive_however_they_get_there(by: str, tools: SharedTools, tmp_path: Path) -> None:
    """A mke2fs that reads tarballs and one that does not, which gets them unpacked."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/sparse").write_bytes(b"start".ljust(1 << 20, b"\0") + b"end")
    run(
        ["tar", "--create", "--sparse", "--transform", "s,^,system/,", "--file", "sparse.tar", "-C", "in", "sparse"],
        cwd=tmp_path,
    )
    hole = bytes(1 << 20)
    link: dict[str, object] = {"type": tarfile.LNKTYPE, "linkname": "system/first"}
    earlier: list[Member] = [
        ("system", None, {"mode": 0o755}),
        ("system/first", b"first", {"mode": 0o640}),
        ("system/second", b"", link),
        ("system/hole", hole + b"x", {}),
        ("system/caf\u00e9", b"utf-8", {}),
        ("system/\udcff\udcfe", b"no utf-8", {}),
        ("system/" + "n" * 200, b"long", {}),
        ("system/was-a-link", b"", {"type": tarfile.SYMTYPE, "linkname": "first"}),
        ("system/etc", None, {"mode": 0o700}),
        ("system/etc/version", b"old", {}),
    ]
    later: list[Member] = [
        ("system/first", b"another", {}),
        ("system/was-a-link", b"a file", {}),
        ("system/etc", None, {"mode": 0o711}),
        ("system/etc/version", b"new", {}),
    ]
    parts = [*_parts(tmp_path), tarball(tmp_path / "1.tgz", earlier), tarball(tmp_path / "2.tgz", later)]
    parts.append(tmp_path / "sparse.tar")
    own = run if by.startswith("the machine") else tools.run
    assemble(parts, GADGET, IDENTITY, tmp_path / "x.img", run=own, work_folder=tmp_path)
    image = tmp_path / "x.img"
    run(["e2fsck", "-f", "-n", filesystem(image, "system-a")])

    def content(name: str) -> str:
        return debugfs(image, "system-a", f'cat "/{name}"').partition("\n")[2]

    names = ("second", "first", "was-a-link", "etc/version", "caf\u00e9", "n" * 200)
    assert [content(name) for name in names] == ["first\n", "another\n", "a file\n", "new\n", "utf-8\n", "long\n"]
    assert r"\xff\xfe" in debugfs(image, "system-a", "ls -l /")
    assert _stat(image, "system-a", "/etc") == ("0711", 0, 0)
    assert "Blockcount: 8\n" in debugfs(image, "system-a", "stat /hole"), "a hole takes no blocks"
    debugfs(image, "system-a", f"dump /sparse {tmp_path}/sparse")
    assert (tmp_path / "sparse").read_bytes() == (tmp_path / "in/sparse").read_bytes()
    assert CAPABILITY.hex(" ") in debugfs(image, "system-a", "ea_list /usr/bin/ping")
    wanted = {("atime", EPOCH), ("ctime", EPOCH), ("crtime", EPOCH), ("mtime", EPOCH - 1000)}
    for path in ("/usr/bin/ping", "/usr/bin/su"):
        times = re.findall(r"([acm]time|crtime): 0x(\w+)", debugfs(image, "system-a", f"stat {path}"))
        assert {(name, int(value, 16)) for name, value in times} == wanted, "with attributes and without"


def test_another_folder_umask_and_user_give_the_same_bytes(image: AssembledImage, tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        again = _assemble(tmp_path / "elsewhere", "another.img")
    finally:
        os.umask(previous)
    assert sparse_sha256(again.path) == sparse_sha256(image.path)


def test_a_login_is_added_once_and_fits_the_filesystem(image: AssembledImage, tmp_path: Path) -> None:
    mine = tmp_path / "mine.img"
    run(["cp", "--sparse=always", image.path, mine])
    login = Login(ssh_keys=("ssh-ed25519 " + "A" * 68,), password="a password")
    personalise(mine, login, EPOCH, run=run, work_folder=tmp_path)
    run(["e2fsck", "-f", "-n", filesystem(mine, "writable")])
    assert _stat(mine, "writable", "/user-data/admin/.ssh/authorized_keys") == ("0600", 1000, 1000)
    assert _stat(mine, "writable", "/system-data/var/lib/extrausers/shadow") == ("0640", 0, 42)
    assert _stat(mine, "writable", "/overlays/etc/upper/sudoers.d/90-admin") == ("0440", 0, 0)
    assert "admin:$6$" in debugfs(mine, "writable", "cat /system-data/var/lib/extrausers/shadow")
    assert "seeded" in debugfs(mine, "writable", "cat /system-data/seeded")
    with pytest.raises(UsageError, match="has a login already"):
        personalise(mine, login, EPOCH, run=run, work_folder=tmp_path)


def test_through_the_store_and_back(image: AssembledImage, signer: GnupgSigner, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    stored = store_image(image, store=store, signer=signer, run=run, work_folder=tmp_path)
    prefix = "images/test/13/edge/generic_amd64/1"
    name = "test-13-edge-generic_amd64-1.img"
    assert [entry.key.removeprefix(f"{prefix}/") for entry in store.list("images/")] == [
        "SHA256SUMS",
        "SHA256SUMS.gpg",
        f"{name}.zst",
    ]
    back = fetch_image(stored, tmp_path / name, store=store, run=run)
    published = tmp_path / "store" / prefix
    signature = (published / "SHA256SUMS.gpg").read_bytes()
    verify_detached(published / "SHA256SUMS", signature, [signer.public_key(Role.CDIMAGE)])
    shutil.copy(published / f"{name}.zst", tmp_path)
    run(["sha256sum", "--check", "--strict", published / "SHA256SUMS"], cwd=tmp_path)
    assert back.stat().st_blocks * 512 < 100 << 20


def test_a_rootfs_too_large_for_its_slot(tmp_path: Path) -> None:
    parts = _parts(tmp_path)
    with tarfile.open(tmp_path / "big.tar", "w") as tar:
        for number in range(2):
            member = tarfile.TarInfo(f"system/big{number}")
            member.size = 512 << 20
            tar.addfile(member, io.FileIO("/dev/zero"))
    with pytest.raises(BuildError, match=r"structure system-a: the content needs \d+ bytes"):
        assemble([*parts, tmp_path / "big.tar"], GADGET, IDENTITY, tmp_path / "x.img", run=run, work_folder=tmp_path)
    assert not list(tmp_path.glob("*.img")) + list(tmp_path.glob(".x*"))


def test_bad_output_hostile_part_and_missing_kernel(tmp_path: Path) -> None:
    rootfs, device = _parts(tmp_path)
    with pytest.raises(HostError, match="cannot be written"):
        assemble([], tmp_path, IDENTITY, tmp_path / "no" / "x.img", run=run, work_folder=tmp_path)
    hostile = tarball(tmp_path / "hostile.tar.gz", [("system/../../x", b"", {})])
    with pytest.raises(VerificationError, match=r"hostile.tar.gz: .*leaves the place"):
        assemble([device, hostile], GADGET, IDENTITY, tmp_path / "x.img", run=run, work_folder=tmp_path)
    with pytest.raises(BuildError, match=r"no tarball has a hardware\.yaml"):
        assemble([rootfs], GADGET, IDENTITY, tmp_path / "x.img", run=run, work_folder=tmp_path)
    rootfs.write_bytes(rootfs.read_bytes()[:-40])
    with pytest.raises(VerificationError, match=r"rootfs.tar.gz: is damaged"):
        assemble([rootfs, device], GADGET, IDENTITY, tmp_path / "x.img", run=run, work_folder=tmp_path)
    assert not list(tmp_path.glob("*.img")) + list(tmp_path.glob(".x*")) + list(tmp_path.glob("assemble-*"))
