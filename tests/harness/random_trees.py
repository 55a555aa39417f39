"""Trees of every kind of file and tarballs of them, for Hypothesis; GNU tar to unpack, and a look at what is there."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypothesis import strategies as st

from coreimage.client.tree import Entry, Kind

_NAMES = [b"a", b"b", b"a b", b"\xe4\xff", "ä".encode(), b"x" * 120, b"lib-1.0.so", b"lib-1.1.so"]
_NODES = os.geteuid() == 0
"""Only root makes device nodes, and gives files away."""
_CAPABILITY = ("SCHILY.xattr.security.capability", "\x01\x00\x00\x02\x00 \x00\x00" + "\x00" * 12)
# Its mask is what the group has in the mode: no file could have another.
_ACL_BYTES = bytes.fromhex(
    "02000000 01000700ffffffff 02000500 00000000 04000500ffffffff 10000500ffffffff 20000500ffffffff"
)
_ACL = ("SCHILY.xattr.system.posix_acl_access", _ACL_BYTES.decode("utf-8", "surrogateescape"))

Member = tuple[tarfile.TarInfo, bytes]
_contents = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda seed, size: hashlib.shake_256(bytes([seed])).digest(size), st.integers(0, 3), st.integers(0, 9000)
    ),
    st.builds(lambda seed: hashlib.shake_256(bytes([seed])).digest(3000) + bytes(20000) + b"end", st.integers(0, 3)),
)


def _noise(seed: int, size: int) -> bytes:
    return hashlib.shake_256(bytes([seed])).digest(size)


def layers(names: Sequence[bytes] = _NAMES) -> st.SearchStrategy[list[list[Member]]]:
    """Two tarballs, as lists of members: a tree each, the second laid over the first."""
    return st.lists(trees(names), min_size=2, max_size=2).filter(_fit)


@st.composite
def trees(draw: st.DrawFn, names: Sequence[bytes] = _NAMES) -> list[Member]:
    paths = draw(st.lists(st.lists(st.sampled_from(names), min_size=1, max_size=3), max_size=7))
    found: dict[bytes, Member] = {b"system": _member(b"system", tarfile.DIRTYPE, draw)}
    for parts in paths:
        for count in range(1, len(parts)):
            name = b"system/" + b"/".join(parts[:count])
            found.setdefault(name, _member(name, tarfile.DIRTYPE, draw))
        name = b"system/" + b"/".join(parts)
        if name not in found and all(found[parent][0].isdir() for parent in _parents(name)):
            found[name] = _any(draw, name, found)
        elif any(not found[parent][0].isdir() for parent in _parents(name)):
            found = {key: value for key, value in found.items() if not _orphan(key, found)}
    return [found[name] for name in sorted(found, key=lambda name: name.split(b"/"))]


def tarball(members: Sequence[Member]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return plain.getvalue()


def unpack(tar: bytes | Path, folder: Path) -> None:
    """As the appliers of 2015 and ours do: everything kept, numeric owners."""
    folder.mkdir(exist_ok=True)
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--exclude=removed", "-xpf"]
    content = tar if isinstance(tar, bytes) else tar.read_bytes()
    subprocess.run(["tar", "-C", str(folder), *options, "-"], input=content, check=True, capture_output=True)


def look(root: Path) -> list[Entry]:
    """Everything below `root`, in byte order."""
    firsts: dict[tuple[int, int], bytes] = {}
    return [_seen(name, path, firsts) for name, path in sorted(_walk(os.fsencode(root), b""))]


def _walk(folder: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    for found in os.scandir(folder):
        name = prefix + found.name
        yield name, found.path
        if found.is_dir(follow_symlinks=False):
            yield from _walk(found.path, name + b"/")


def _seen(name: bytes, path: bytes, firsts: dict[tuple[int, int], bytes]) -> Entry:
    about = os.lstat(path)
    kinds: dict[int, Kind] = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "symlink",
        stat.S_IFCHR: "char",
        stat.S_IFBLK: "block",
        stat.S_IFIFO: "fifo",
    }
    kind = kinds[stat.S_IFMT(about.st_mode)]
    if kind != "folder" and (first := firsts.setdefault((about.st_dev, about.st_ino), name)) != name:
        return Entry(name, "link", target=first)
    content = Path(os.fsdecode(path)).read_bytes() if kind == "file" else b""
    device = (os.major(about.st_rdev), os.minor(about.st_rdev)) if kind in {"char", "block"} else (0, 0)
    attributes = os.listxattr(path, follow_symlinks=False)
    records = {f"SCHILY.xattr.{key}": os.getxattr(path, key, follow_symlinks=False) for key in attributes}
    return Entry(
        name,
        kind,
        mode=stat.S_IMODE(about.st_mode) if kind != "symlink" else 0,
        uid=about.st_uid,
        gid=about.st_gid,
        mtime=int(about.st_mtime),
        target=os.readlink(path) if kind == "symlink" else b"",  # noqa: PTH115
        device=device,
        records=tuple(sorted(records.items())),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).digest() if kind == "file" else b"",
    )


def _any(draw: st.DrawFn, name: bytes, found: dict[bytes, Member]) -> Member:
    before = [key for key in found if key.split(b"/") < name.split(b"/")]
    files = sorted(key for key in before if found[key][0].isreg())
    kinds = [tarfile.REGTYPE] * 4 + [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
    kinds += [tarfile.LNKTYPE] * 2 if files else []
    kinds += [tarfile.CHRTYPE, tarfile.BLKTYPE] if _NODES else []
    return _member(name, draw(st.sampled_from(kinds)), draw, files)


def _member(name: bytes, kind: bytes, draw: st.DrawFn, files: Sequence[bytes] = ()) -> Member:
    member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    member.type = kind
    member.mtime = draw(st.sampled_from([1_700_000_000, 1_700_000_001]))
    member.mode = draw(st.sampled_from([0o644, 0o755, 0o4755]))
    member.uid = draw(st.sampled_from([0, 1000])) if _NODES else os.geteuid()
    member.gid = member.uid if _NODES else os.getegid()
    content = b""
    if kind == tarfile.REGTYPE:
        content = draw(_contents)
        member.size = len(content)
        # An ACL shares bits with the mode, so it goes with this one only.
        if _NODES and member.mode == 0o755 and draw(st.booleans()):
            member.pax_headers = dict([draw(st.sampled_from([_CAPABILITY, _ACL]))])
    elif kind == tarfile.SYMTYPE:
        member.linkname = draw(st.sampled_from(["a", "/nowhere", "../ä"]))
    elif kind == tarfile.LNKTYPE:
        member.linkname = draw(st.sampled_from(files)).decode("utf-8", "surrogateescape")
    elif kind in {tarfile.CHRTYPE, tarfile.BLKTYPE}:
        member.devmajor, member.devminor = 1, draw(st.sampled_from([3, 5]))
    return member, content


def _parents(name: bytes) -> list[bytes]:
    parts = name.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


def _orphan(name: bytes, found: dict[bytes, Member]) -> bool:
    return any(parent not in found or not found[parent][0].isdir() for parent in _parents(name))


def _fit(both: list[list[Member]]) -> bool:
    """Tarballs of one image agree on what is a folder: one cannot be unpacked over the other else."""
    kinds = [{member.name: member.isdir() for member, _ in members} for members in both]
    return all(kinds[0].get(name, folder) == folder for name, folder in kinds[1].items())
