from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from coreimage.disk_image.assembly import check_sizes
from coreimage.disk_image.filesystems import used_inodes
from coreimage.disk_image.gadget import load_gadget
from coreimage.disk_image.grub import grubenv, parse_grubenv
from coreimage.disk_image.layout import image_size_bytes, plan_layout
from coreimage.disk_image.payload import Contents, pass_checked
from coreimage.errors import BuildError, VerificationError
from coreimage.process import run

GADGET = load_gadget(Path(__file__).parents[3] / "deployments" / "gadgets" / "generic_amd64")
LIMIT = 1 << 32
LINK = ("system/lib", tarfile.SYMTYPE, "/tmp")


def _tar(path: Path, *members: tuple[str, bytes, str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member, io.BytesIO())
    return path


def _passed(*parts: Path) -> tuple[Contents, bytes]:
    contents, stream = Contents(), io.BytesIO()
    pass_checked(parts, contents, LIMIT, run, stream)
    return contents, stream.getvalue()


def _end(path: Path) -> int:
    """Where the last member's content ends, in whole blocks."""
    with tarfile.open(path) as tar:
        tar.getmembers()
        return tar.offset


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("../etc/passwd", tarfile.REGTYPE, "")], "could leave the tree"),
        ([("/etc/passwd", tarfile.REGTYPE, "")], "could leave the tree"),
        ([("./system/x", tarfile.REGTYPE, "")], "could leave the tree"),
        ([("etc/passwd", tarfile.REGTYPE, "")], "is in none of system, writable"),
        ([("system/dev/sda", tarfile.BLKTYPE, "")], "device node"),
        ([("system/pipe", tarfile.FIFOTYPE, "")], "FIFO"),
        ([("system", tarfile.SYMTYPE, "/etc")], "belongs at the top"),
        ([("hardware.yaml", tarfile.SYMTYPE, "/etc/shadow")], "belongs at the top"),
        ([LINK, ("system/lib/x", tarfile.REGTYPE, "")], "through a symbolic link"),
        ([LINK, ("system/lib", tarfile.DIRTYPE, "")], "through a symbolic link"),
        ([("system/x", tarfile.LNKTYPE, "/etc/shadow")], "is a hard link to"),
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, members: list[tuple[str, bytes, str]], problem: str) -> None:
    with pytest.raises(VerificationError, match=problem):
        _passed(_tar(tmp_path / "p.tar", *members))


def test_a_later_tarball_cannot_write_through_a_link_of_an_earlier_one(tmp_path: Path) -> None:
    first = _tar(tmp_path / "1.tar", LINK)
    second = _tar(tmp_path / "2.tar", ("system/lib/modules", tarfile.REGTYPE, ""))
    _passed(first)
    with pytest.raises(VerificationError, match=r"2\.tar: member"):
        _passed(first, second)


def test_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense" * 1000)
    with pytest.raises(VerificationError, match="not a tar archive"):
        _passed(tmp_path / "x")


def test_a_refused_member_is_not_passed_on(tmp_path: Path) -> None:
    stream = io.BytesIO()
    hostile = _tar(tmp_path / "p.tar", ("system/ok", tarfile.REGTYPE, ""), ("system/../x", tarfile.REGTYPE, ""))
    with pytest.raises(VerificationError):
        pass_checked([hostile], Contents(), LIMIT, run, stream)
    assert stream.getvalue() == hostile.read_bytes()[: tarfile.BLOCKSIZE]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("sizes", [[], [0], [1, 511, 512, 513], [5000, 0, 1 << 20]])
def test_archives_are_passed_on_as_they_are(tmp_path: Path, form: int, sizes: list[int]) -> None:
    """Headers of every kind, contents that end anywhere, and an archive that was cut at its end marker."""
    paths = [tmp_path / "1.tar", tmp_path / "2.tar"]
    for path in paths:
        with tarfile.open(path, "w", format=form) as tar:
            for number, size in enumerate(sizes):
                member = tarfile.TarInfo(f"system/{'long' * 50}/{path.stem}-{number}")
                member.size = size
                tar.addfile(member, io.BytesIO(os.urandom(size)))
    paths[0].write_bytes(paths[0].read_bytes().rstrip(b"\0").ljust(max(_end(paths[0]), tarfile.BLOCKSIZE), b"\0"))
    contents, stream = _passed(*paths)
    with tarfile.open(fileobj=io.BytesIO(stream), ignore_zeros=True) as tar:
        assert {member.name: member.size for member in tar} == contents.files
    assert [*contents.files.values()] == sizes * 2


def test_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    part = _tar(tmp_path / "p.tar", *[(f"system/{n}", tarfile.REGTYPE, "") for n in range(40)])
    with pytest.raises(BuildError, match=r"p\.tar: unpacks to more than the 10000 bytes"):
        pass_checked([part], Contents(), 10000, run, io.BytesIO())


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
