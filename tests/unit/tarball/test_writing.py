from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from coreimage.errors import BuildError
from coreimage.tarball import (
    TarWriter,
    directory,
    normalise,
    regular,
    symlink,
)
from tests.harness.strict_client.tar import FOLDER, HARD, SOFT, read_tar


def hard_link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.LNKTYPE, target
    return member


def device(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.CHRTYPE
    return member


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


LONG = "system/" + "x" * 120
NAMES = {"short": "system/a", "longer than a header's field": LONG, "no ASCII": "system/ä", "no UTF-8": "system/\udcff"}
ATTRIBUTE = "SCHILY.xattr.user.note"


@pytest.mark.parametrize("other", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_tars_of_2015_read_every_name_and_target(name: str, other: str) -> None:
    """They skip pax headers: what were only there would be cut short or missing."""
    noted = regular(name, 1)
    noted.uid, noted.pax_headers = 3_000_000, {ATTRIBUTE: "\udcff=\n", "SCHILY.xattr.user.other": "x" * 200}
    plain = io.BytesIO()
    with TarWriter(plain, epoch=9, form="legacy") as tar:
        tar.add(directory("system"))
        tar.add(noted, b"1")
        tar.add(hard_link(f"{other}-hard", name))
        tar.add(symlink(f"{name}-soft", other))
    plain.seek(0)
    folder, file, hard, soft = read_tar(plain)
    assert (folder.name, folder.kind, file.name, file.content, file.uid) == ("system", FOLDER, name, b"1", 3_000_000)
    assert dict(file.attributes) == {ATTRIBUTE.encode(): b"\xff=\n", b"SCHILY.xattr.user.other": b"x" * 200}
    assert (hard.kind, hard.name, hard.link) == (HARD, f"{other}-hard", name)
    assert (soft.kind, soft.name, soft.link) == (SOFT, f"{name}-soft", other)
    with tarfile.open(fileobj=io.BytesIO(plain.getvalue())) as tar:
        assert [(m.name, m.linkname) for m in tar][1:] == [
            (name, ""),
            (f"{other}-hard", name),
            (f"{name}-soft", other),
        ]
        assert tar.getmember(name).pax_headers == noted.pax_headers
