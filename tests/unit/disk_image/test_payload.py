from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from coreimage.disk_image.assembly import check_sizes
from coreimage.disk_image.filesystems import used_inodes
from coreimage.disk_image.gadget import load_gadget
from coreimage.disk_image.grub import grubenv, parse_grubenv
from coreimage.disk_image.layout import image_size_bytes, plan_layout
from coreimage.disk_image.payload import Contents, read_contents
from coreimage.errors import BuildError, VerificationError

GADGET = load_gadget(Path(__file__).parents[3] / "deployments" / "gadgets" / "generic_amd64")
LINK = ("system/lib", tarfile.SYMTYPE, "/tmp")


def _tar(path: Path, *members: tuple[str, bytes, str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member, io.BytesIO())
    return path


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("../etc/passwd", tarfile.REGTYPE, "")], "could leave the tree"),
        ([("/etc/passwd", tarfile.REGTYPE, "")], "could leave the tree"),
        ([("./system/x", tarfile.REGTYPE, "")], "could leave the tree"),
        ([("etc/passwd", tarfile.REGTYPE, "")], "is in none of system, writable"),
        ([("system/dev/sda", tarfile.BLKTYPE, "")], "device node"),
        ([("system/pipe", tarfile.FIFOTYPE, "")], "FIFO"),
        ([LINK, ("system/lib/x", tarfile.REGTYPE, "")], "through a symbolic link"),
        ([LINK, ("system/lib", tarfile.DIRTYPE, "")], "through a symbolic link"),
        ([("system/x", tarfile.LNKTYPE, "/etc/shadow")], "is a hard link to"),
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, members: list[tuple[str, bytes, str]], problem: str) -> None:
    with pytest.raises(VerificationError, match=problem):
        read_contents([("part", _tar(tmp_path / "p.tar", *members))])


def test_a_later_tarball_cannot_write_through_a_link_of_an_earlier_one(tmp_path: Path) -> None:
    first = _tar(tmp_path / "1.tar", LINK)
    second = _tar(tmp_path / "2.tar", ("system/lib/modules", tarfile.REGTYPE, ""))
    read_contents([("first", first)])
    with pytest.raises(VerificationError, match="second: member"):
        read_contents([("first", first), ("second", second)])


def test_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense" * 1000)
    with pytest.raises(VerificationError, match="not a tar archive"):
        read_contents([("x", tmp_path / "x")])


@pytest.mark.parametrize(
    ("name", "size_bytes", "structure"),
    [
        ("system/big", 1000 << 20, "system-a"),
        ("writable/big", 1200 << 20, "writable"),
        ("assets/vmlinuz", 253 << 20, "system-boot"),
    ],
)
def test_what_cannot_fit_is_refused_with_both_sizes(name: str, size_bytes: int, structure: str) -> None:
    layout = plan_layout(GADGET, image_size_bytes(4))
    check_sizes(Contents(files={name: size_bytes // 2}), layout)
    with pytest.raises(BuildError, match=rf"needs \d+ bytes and {structure} has room for \d+"):
        check_sizes(Contents(files={name: size_bytes}), layout)


def test_used_inodes_of_dumpe2fs() -> None:
    dump = "Inode count:              24\nFree inodes:   3\n  Free inodes: 13-16\n  Free inodes: 17, 19-24\n"
    assert list(used_inodes(dump)) == [2, 11, 12, 18]


def test_grubenv_is_1024_bytes_and_reads_back() -> None:
    block = grubenv({"slot": "b", "trial": ""})
    assert len(block) == 1024
    assert parse_grubenv(block) == {"slot": "b", "trial": ""}
    assert parse_grubenv(b"garbage" * 200) == {}
