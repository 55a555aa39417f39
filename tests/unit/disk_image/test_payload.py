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
from coreimage.disk_image.payload import Contents, distribute
from coreimage.errors import BuildError, VerificationError
from coreimage.process import run

GADGET = load_gadget(Path(__file__).parents[3] / "deployments" / "gadgets" / "generic_amd64")
LIMIT, EPOCH = 1 << 32, 1_700_000_000
FILE = ("system/file", tarfile.REGTYPE, "")
LINK = ("system/lib", tarfile.SYMTYPE, "/tmp")


def _tar(path: Path, *members: tuple[str, bytes, str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member, io.BytesIO())
    return path


class Kept(io.BytesIO):
    """Can be read after it was closed."""

    def close(self) -> None:
        self.seek(0)


def _passed(*parts: Path, limit_bytes: int = LIMIT) -> tuple[Contents, dict[str, Kept]]:
    contents, kept = Contents(), {root: Kept() for root in ("system", "writable", "rest")}
    filesystems = {root: kept[root] for root in ("system", "writable")}
    distribute(parts, filesystems, kept["rest"], contents, limit_bytes=limit_bytes, epoch=EPOCH, run=run)
    return contents, kept


def _members(kept: Kept) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=kept) as tar:
        return {_name(member): member for member in tar}


def _name(member: tarfile.TarInfo) -> str:
    """Python takes the time that GNU tar has in its headers for the beginning of a long name, as POSIX has there."""
    return member.name.removeprefix(f"{EPOCH:011o}/")


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
        ([FILE, ("assets/x", tarfile.LNKTYPE, FILE[0])], "on another filesystem"),
        ([FILE, (FILE[0], tarfile.DIRTYPE, "")], "folder of a file"),
        ([FILE, (f"{FILE[0]}/x", tarfile.REGTYPE, "")], "folder of a file"),
        ([("system/etc/x", tarfile.REGTYPE, ""), ("system/etc", tarfile.REGTYPE, "")], "file of a folder"),
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
    system, rest = Kept(), Kept()
    hostile = _tar(tmp_path / "p.tar", ("system/ok", tarfile.REGTYPE, ""), ("system/../x", tarfile.REGTYPE, ""))
    with pytest.raises(VerificationError):
        distribute([hostile], {"system": system}, rest, Contents(), limit_bytes=LIMIT, epoch=0, run=run)
    assert len(system.getvalue()) == 2 * tarfile.BLOCKSIZE, "the headers of the root and of the first member"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("sizes", [[], [0], [1, 511, 512, 513], [5000, 0, 1 << 20]])
def test_contents_go_where_their_names_say(tmp_path: Path, form: int, sizes: list[int]) -> None:
    """Headers of every kind, contents that end anywhere, and an archive that was cut at its end marker."""
    paths = [tmp_path / "1.tar", tmp_path / "2.tar"]
    wanted: dict[str, dict[str, bytes]] = {"system": {}, "writable": {}, "rest": {}}
    for path in paths:
        with tarfile.open(path, "w", format=form) as tar:
            for number, size in enumerate(sizes):
                for root, prefix in (("system", "system/"), ("writable", "writable/"), ("rest", "")):
                    name = (
                        f"{'long' * 20}/{'more' * 15}/{path.stem}-{number}"
                        if root != "rest"
                        else f"assets/{path.stem}-{number}"
                    )
                    member = tarfile.TarInfo(prefix + name)
                    member.size, wanted[root][name] = size, os.urandom(size)
                    tar.addfile(member, io.BytesIO(wanted[root][name]))
    paths[0].write_bytes(paths[0].read_bytes().rstrip(b"\0").ljust(max(_end(paths[0]), tarfile.BLOCKSIZE), b"\0"))
    contents, kept = _passed(*paths)
    assert [*contents.files.values()] == [size for size in sizes * 2 for _ in range(3)]
    for root, files in wanted.items():
        with tarfile.open(fileobj=kept[root]) as tar:
            assert {_name(member): _read(tar, member) for member in tar if member.isfile()} == files


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file
    return file.read()


def test_folders_come_before_their_content_and_no_time_after_the_epoch(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for name, mtime in (("system/a/b/old", EPOCH - 5), ("system/a/c/new", EPOCH + 5)):
            member = tarfile.TarInfo(name)
            member.mtime, member.uid, member.uname = mtime, 7, "somebody"
            tar.addfile(member)
    _, kept = _passed(tmp_path / "p.tar")
    found = _members(kept["system"])
    assert list(found) == [".", "a", "a/b", "a/b/old", "a/c", "a/c/new"]
    assert [member.mtime for member in found.values()] == [EPOCH, EPOCH, EPOCH, EPOCH - 5, EPOCH, EPOCH]
    assert [(member.uid, member.uname) for member in found.values()][3:] == [(7, ""), (0, ""), (7, "")]


def test_hard_links_and_attributes_keep_with_their_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        file = tarfile.TarInfo("system/usr/ping")
        file.pax_headers = {"SCHILY.xattr.security.capability": "\1\0", "comment": "no"}
        link = tarfile.TarInfo("system/usr/ping4")
        link.type, link.linkname = tarfile.LNKTYPE, "system/usr/ping"
        tar.addfile(file)
        tar.addfile(link)
    found = _members(_passed(tmp_path / "p.tar")[1]["system"])
    assert found["usr/ping4"].linkname == "usr/ping"
    assert found["usr/ping"].pax_headers["SCHILY.xattr.security.capability"] == "\1\0"
    assert "comment" not in found["usr/ping"].pax_headers


def test_what_is_read_here_can_be_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for name, kind in (("assets", tarfile.DIRTYPE), ("assets/initrd.img", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0
            tar.addfile(member)
    found = _members(_passed(tmp_path / "p.tar")[1]["rest"])
    assert [oct(member.mode) for member in found.values()] == ["0o700", "0o600"]


def test_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    part = _tar(tmp_path / "p.tar", *[(f"system/{n}", tarfile.REGTYPE, "") for n in range(40)])
    with pytest.raises(BuildError, match=r"p\.tar: unpacks to more than the 10000 bytes"):
        _passed(part, limit_bytes=10000)


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
