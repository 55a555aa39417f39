from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import pytest

from coreimage.errors import BuildError, VerificationError
from coreimage.tarball import (
    Limits,
    MemberCheck,
    TarWriter,
    directory,
    extract,
    normalise,
    regular,
    stored_xz,
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
        ([directory("a"), symlink("a", "/etc")], "twice"),
        ([regular("a", 101)], "limits"),
        ([regular("a", 90), regular("b", 90)], "limits"),
        ([regular("n" * 300, 0)], "leaves"),
    ],
)
def test_hostile_members_are_refused(members: list[tarfile.TarInfo], complaint: str) -> None:
    check = MemberCheck(limits=Limits(member_bytes=100, total_bytes=150, name_bytes=255))
    for member in members[:-1]:
        check(member)
    with pytest.raises(VerificationError, match=complaint):
        check(members[-1])


def test_ordinary_members_pass() -> None:
    check = MemberCheck(roots={"system"})
    for member in [directory("system"), regular("system/a", 3), hard_link("system/b", "system/a"), directory("system")]:
        check(member)


def test_a_member_outside_the_roots_is_refused() -> None:
    with pytest.raises(VerificationError, match="does not begin with system"):
        MemberCheck(roots={"system"})(regular("data/x", 0))


def test_nothing_is_written_when_the_last_member_is_hostile(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(regular("good", 4), io.BytesIO(b"good"))
        tar.addfile(regular("../bad", 3), io.BytesIO(b"bad"))
    file.seek(0)
    with pytest.raises(VerificationError):
        extract(file, tmp_path / "out", MemberCheck())
    assert not (tmp_path / "out").exists()


def test_normalise_takes_out_what_varies_and_keeps_capabilities() -> None:
    member = regular("./usr/bin/ping", 0, 0o755)
    member.uname, member.mtime = "builder", 2_000.75
    member.pax_headers = {"atime": "1", "ctime": "2", "SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x20"}
    clean = normalise(member, epoch=1_000)
    assert (clean.name, clean.uname, clean.mtime, clean.mode) == ("usr/bin/ping", "", 1_000, 0o755)
    assert clean.pax_headers == {"SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x20"}


def test_a_hard_link_is_prefixed_with_its_target() -> None:
    clean = normalise(hard_link("./b", "./a"), prefix="system/")
    assert (clean.name, clean.linkname) == ("system/b", "system/a")


def test_device_nodes_are_never_packed() -> None:
    with pytest.raises(BuildError, match="dev/null"):
        normalise(device("dev/null"))


def test_a_tree_has_the_same_bytes_whatever_its_owner_mode_and_time(tmp_path: Path) -> None:
    def tree(folder: Path, mode: int) -> bytes:
        (folder / "etc").mkdir(parents=True)
        (folder / "etc/motd").write_text("hello")
        (folder / "etc/motd").chmod(mode)
        (folder / ".hidden").symlink_to("etc/motd")
        file = io.BytesIO()
        with TarWriter(file, epoch=7) as tar:
            tar.add_tree(folder)
        return file.getvalue()

    first = tree(tmp_path / "one", 0o600)
    assert first == tree(tmp_path / "two", 0o664)
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert [(m.name, m.mode, m.mtime) for m in tar] == [
            (".hidden", 0o777, 7),
            ("etc", 0o755, 7),
            ("etc/motd", 0o644, 7),
        ]


@pytest.mark.parametrize("size_bytes", [1, 10_240, 65_536, 65_537, 300_003])
def test_stored_xz_is_what_every_xz_reads(size_bytes: int) -> None:
    content = bytes(number * number % 251 for number in range(size_bytes))
    packed = stored_xz(content)
    assert lzma.decompress(packed, lzma.FORMAT_XZ) == content
    assert len(packed) < size_bytes + 100
    with pytest.raises(lzma.LZMAError):
        lzma.decompress(packed[:30] + bytes([packed[30] ^ 1]) + packed[31:])
