from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from coreimage.errors import VerificationError
from coreimage.tarball import (
    VERSION_ROOTS,
    Contents,
    Limits,
    MemberCheck,
    directory,
    extract,
    regular,
    symlink,
)


def hard_link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.LNKTYPE, target
    return member


def device(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.CHRTYPE
    return member


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([regular("/etc/passwd", 0)], "leaves the place"),
        ([regular("a/../../b", 0)], "leaves the place"),
        ([symlink("a", "/etc"), regular("a/passwd", 0)], "symbolic link 'a'"),
        ([symlink("a", "/"), directory("a/b")], "symbolic link 'a'"),
        ([hard_link("a", "../b")], "leaves the place"),
        ([hard_link("a", "b")], "no file before it"),
        ([symlink("s", "/etc/shadow"), hard_link("a", "s")], "no file before it"),
        ([device("dev/null")], "device node"),
        ([regular("a", 0), regular("a", 0)], "twice"),
        ([regular("a", 0), regular("./a", 0)], "twice"),
        ([directory("a"), symlink("a", "/etc")], "place of a folder"),
        ([symlink("a", "/etc"), directory("a")], "place of a symbolic link"),
        ([regular("a/b", 0), regular("a", 0)], "place of a folder"),
        ([regular("a", 0), regular("a/b", 0)], "through the file 'a'"),
        ([regular("a/./b", 0)], "leaves the place"),
        ([regular("a//b", 0)], "leaves the place"),
        ([regular("n/" * 3000, 0)], "longer than"),
        ([regular("a", 101)], "limits"),
        ([regular("a", 90), regular("b", 90)], "limits"),
        ([regular("n" * 256, 0)], "longer than"),
    ],
)
def test_hostile_members_are_refused(members: list[tarfile.TarInfo], complaint: str) -> None:
    check = MemberCheck(limits=Limits(member_bytes=100, total_bytes=150))
    for member in members[:-1]:
        check.accept(member, "it")
    with pytest.raises(VerificationError, match=complaint):
        check.accept(members[-1], "it")


def test_a_record_with_a_name_that_cannot_be_written_again_is_refused() -> None:
    member = regular("a", 0)
    member.pax_headers = {"SCHILY.xattr.user.\udcf5": "x"}
    with pytest.raises(VerificationError, match="pax record"):
        MemberCheck().accept(member, "it")


def test_the_number_of_members_is_limited() -> None:
    check = MemberCheck(limits=Limits(members=2))
    check.accept(regular("a", 0), "it")
    check.accept(regular("b", 0), "it")
    with pytest.raises(VerificationError, match="limits"):
        check.accept(regular("c", 0), "it")


def test_ordinary_members_pass() -> None:
    check = MemberCheck(roots=VERSION_ROOTS)
    for member in [directory("system"), regular("system/a", 3), hard_link("system/b", "system/a"), directory("system")]:
        check.accept(member, "it")
    assert check.accept(regular("./system/c", 2), "it") == "system/c"
    assert check.contents == Contents({"system"}, {}, {"system/a": 3, "system/b": 0, "system/c": 2})


@pytest.mark.parametrize("later", [regular("a", 7), symlink("a", "b")])
def test_a_later_archive_may_replace_files_and_links(later: tarfile.TarInfo) -> None:
    for earlier in (regular("a", 5), symlink("a", "/etc")):
        check = MemberCheck(overwrite=True)
        check.accept(earlier, "1")
        check.accept(later, "2")
        assert (check.contents.kind("a"), check.contents.files.get("a", 0)) in {("file", 7), ("symbolic link", 0)}
        with pytest.raises(VerificationError, match=r"3: .*in the place of a"):
            check.accept(directory("a"), "3")


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([regular("data/x", 0)], "does not begin with system"),
        ([regular("system", 0)], "a folder belongs there"),
        ([directory("hardware.yaml")], "a file belongs there"),
        ([regular("system/x", 0), hard_link("boot/x", "system/x")], "on another filesystem"),
    ],
)
def test_the_tarballs_of_a_version_have_roots(members: list[tarfile.TarInfo], complaint: str) -> None:
    check = MemberCheck(roots=VERSION_ROOTS)
    for member in members[:-1]:
        check.accept(member, "it")
    with pytest.raises(VerificationError, match=complaint):
        check.accept(members[-1], "it")


def test_nothing_is_written_when_the_last_member_is_hostile(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(regular("good", 4), io.BytesIO(b"good"))
        tar.addfile(regular("../bad", 3), io.BytesIO(b"bad"))
    file.seek(0)
    with pytest.raises(VerificationError):
        extract(file, tmp_path / "out", where="it")
    assert not (tmp_path / "out").exists()
