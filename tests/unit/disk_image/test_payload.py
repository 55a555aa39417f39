from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from coreimage.disk_image.payload import distribute
from coreimage.errors import BuildError, VerificationError
from coreimage.host.process import run
from coreimage.tarball import Contents

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


def _passed(*parts: Path, limit_bytes: int = LIMIT, follow_links: bool = False) -> tuple[Contents, dict[str, Kept]]:
    kept = {root: Kept() for root in ("system", "writable", "rest")}
    filesystems = {root: kept[root] for root in ("system", "writable")}
    contents = distribute(
        parts, filesystems, kept["rest"], limit_bytes=limit_bytes, epoch=EPOCH, run=run, follow_links=follow_links
    )
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
        ([("../etc/passwd", tarfile.REGTYPE, "")], "leaves the place"),
        ([("/etc/passwd", tarfile.REGTYPE, "")], "leaves the place"),
        ([("system/./x", tarfile.REGTYPE, "")], "leaves the place"),
        ([("etc/passwd", tarfile.REGTYPE, "")], "does not begin with system or writable"),
        ([("system/dev/sda", tarfile.BLKTYPE, "")], "device node"),
        ([("system/pipe", tarfile.FIFOTYPE, "")], "FIFO"),
        ([("system", tarfile.SYMTYPE, "/etc")], "belongs there"),
        ([("hardware.yaml", tarfile.SYMTYPE, "/etc/shadow")], "belongs there"),
        ([LINK, ("system/lib/x", tarfile.REGTYPE, "")], "through the symbolic link"),
        ([LINK, ("system/lib", tarfile.DIRTYPE, "")], "a folder in the place of a symbolic link"),
        ([("system/x", tarfile.LNKTYPE, "/etc/shadow")], "is a hard link to"),
        ([FILE, ("assets/x", tarfile.LNKTYPE, FILE[0])], "on another filesystem"),
        ([FILE, (FILE[0], tarfile.DIRTYPE, "")], "a folder in the place of a file"),
        ([FILE, (f"{FILE[0]}/x", tarfile.REGTYPE, "")], "through the file"),
        (
            [("system/etc/x", tarfile.REGTYPE, ""), ("system/etc", tarfile.REGTYPE, "")],
            "in the place of a folder",
        ),
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, members: list[tuple[str, bytes, str]], problem: str) -> None:
    with pytest.raises(VerificationError, match=problem):
        _passed(_tar(tmp_path / "p.tar", *members))


def test_a_later_tarball_cannot_write_through_a_link_of_an_earlier_one(tmp_path: Path) -> None:
    first = _tar(tmp_path / "1.tar", LINK)
    second = _tar(tmp_path / "2.tar", ("system/lib/modules", tarfile.REGTYPE, ""))
    _passed(first)
    with pytest.raises(VerificationError, match=r"2\.tar: 'system/lib/modules'"):
        _passed(first, second)


def test_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense" * 1000)
    with pytest.raises(VerificationError, match="not a tar archive"):
        _passed(tmp_path / "x")


def test_a_refused_member_is_not_passed_on(tmp_path: Path) -> None:
    system, rest = Kept(), Kept()
    hostile = _tar(tmp_path / "p.tar", ("system/ok", tarfile.REGTYPE, ""), ("system/../x", tarfile.REGTYPE, ""))
    with pytest.raises(VerificationError):
        distribute([hostile], {"system": system}, rest, limit_bytes=LIMIT, epoch=0, run=run)
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


@pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "./usr/../usr/lib"])
def test_the_original_puts_modules_over_a_merged_usr(tmp_path: Path, target: str) -> None:
    """Its server adds the folder `system/lib/modules` to every rootfs, and the device's tarball fills it (§5.1)."""
    rootfs = _tar(
        tmp_path / "rootfs.tar",
        ("system/usr/lib", tarfile.DIRTYPE, ""),
        ("system/lib", tarfile.SYMTYPE, target),
        ("system/lib/modules", tarfile.DIRTYPE, ""),
    )
    device = _tar(
        tmp_path / "device.tar",
        ("system/lib/modules/6.1/ext4.ko", tarfile.REGTYPE, ""),
        ("system/lib/modules/6.1/same.ko", tarfile.LNKTYPE, "system/lib/modules/6.1/ext4.ko"),
    )
    contents, kept = _passed(rootfs, device, follow_links=True)
    assert contents.kind("system/usr/lib/modules/6.1/ext4.ko") == "file"
    members = _members(kept["system"])
    assert members["usr/lib/modules/6.1/same.ko"].linkname == "usr/lib/modules/6.1/ext4.ko"
    with pytest.raises(VerificationError, match="goes through the symbolic link"):
        _passed(rootfs, device)


@pytest.mark.parametrize("target", ["../outside", "/../outside", "lib"])
def test_links_that_leave_their_root_or_go_round_are_not_followed(tmp_path: Path, target: str) -> None:
    link, through = ("system/lib", tarfile.SYMTYPE, target), ("system/lib/file", tarfile.REGTYPE, "")
    with pytest.raises(VerificationError, match="goes through the symbolic link"):
        _passed(_tar(tmp_path / "part.tar", link, through), follow_links=True)
