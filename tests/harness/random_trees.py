"""Trees of every kind of file and tarballs of them, for Hypothesis; GNU tar to unpack, and a look at what is there."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from functools import cache
from itertools import product
from pathlib import Path

from hypothesis import strategies as st

from coreimage.client.tree import XATTR, Entry, Kind

NO_TEXT = b"\xe4\xff"
_NAMES = [b"a", b"b", b"a b", "ä".encode(), b"x" * 120, b"lib-1.0.so", b"lib-1.1.so"] * 2 + [NO_TEXT]
_ROOTS = [b"system"] * 4 + [b"assets"]
_NODES = os.geteuid() == 0
"""Only root makes device nodes, and gives files away."""
_CAPABILITY_BYTES = b"\x01\x00\x00\x02\x00 \x00\x00" + bytes(12)
# Its mask is what the group has in the mode: no file could have another.
ACL_BYTES = bytes.fromhex(
    "02000000 01000700ffffffff 02000500 00000000 04000500ffffffff 10000500ffffffff 20000500ffffffff"
)
_ACL_MODE = 0o755
NOTE, CAPABILITY = f"{XATTR}user.note", f"{XATTR}security.capability"
ACL, DEFAULT_ACL = f"{XATTR}system.posix_acl_access", f"{XATTR}system.posix_acl_default"
SPARSE = "GNU.sparse.major"
_HOLE_BYTES = 4096
GZIP_MAGIC = b"\x1f\x8b"

# One draw of everything costs a third of a draw for each: most of the time of these tests is drawing.
_LOOKS = st.sampled_from(list(product((1_700_000_000, 1_700_000_001), (0o644, _ACL_MODE, 0), (0, 1000, 3_000_000))))
"""Modification times, modes (0: the one of the kind with a special bit) and owners."""
_ATTRIBUTES = st.sampled_from(list(product((b"", b"note", b"\xff\0="), (False, True), (False, True))))
_TARGETS = st.sampled_from(["a", "/nowhere", "../ä", os.fsdecode(b"\xff")])
_MINORS = st.sampled_from([3, 5])
_ONE_IN_SIX = st.integers(0, 5)
_CHANGES = st.sampled_from(["none", "gone", "kind", "kind", "about", "about", *["content"] * 3, "name", "link"])
_PATHS = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=2)

Member = tuple[tarfile.TarInfo, bytes]
"""A header and the content of the file; one that names a version of sparse files is written without its holes."""
Layers = list[list[Member]]


def _noise(seed: int, size: int) -> bytes:
    return hashlib.shake_256(bytes([seed])).digest(size)


_seeds = st.integers(0, 3)
_contents = st.one_of(
    st.binary(max_size=40),
    st.builds(_noise, _seeds, st.integers(0, 9000)),
    st.builds(lambda seed: _noise(seed, 3000) + bytes(20000) + b"end", _seeds),
    st.builds(lambda seed, more: gzip.compress(_noise(seed, 6000) + more, 6, mtime=0), _seeds, st.binary(max_size=9)),
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Layers, Layers]:
    """Two images, of two tarballs each. The second is mostly the first with changes of every kind."""
    base = draw(layers())
    if draw(st.integers(0, 3)) == 0:
        return base, draw(layers())
    target = [_changed(draw, members) for members in base]
    return base, _laid_over(*(target if draw(st.integers(0, 3)) else target[::-1]))


@st.composite
def layers(draw: st.DrawFn) -> Layers:
    """Two tarballs, as lists of members: a tree each, the second laid over the first."""
    first = draw(_trees())
    return _laid_over(first, draw(_trees([member.name for member, _ in first if not member.isdir()])))


@st.composite
def _trees(draw: st.DrawFn, linkable: Sequence[str] = (), *, max_size: int = 8) -> list[Member]:
    paths = draw(st.lists(_PATHS, min_size=2, max_size=max_size))
    found: dict[bytes, Member] = {b"system": _member(b"system", tarfile.DIRTYPE, draw)}
    for parts in paths:
        name = b"/".join([draw(st.sampled_from(_ROOTS)), *parts])
        for parent in _parents(name):
            found.setdefault(parent, _member(parent, tarfile.DIRTYPE, draw))
        if name not in found and all(found[parent][0].isdir() for parent in _parents(name)):
            before = [_text(key) for key in found if _order(key) < _order(name) and not found[key][0].isdir()]
            found[name] = _any(draw, name, [*linkable, *sorted(before)])
    return _whole(found.values())


def _changed(draw: st.DrawFn, members: Sequence[Member]) -> list[Member]:
    files = sorted(member.name for member, _ in members if not member.isdir())
    names = {_bytes(member.name) for member, _ in members}
    made: list[Member] = []
    for member, content in members:
        linkable = [other for other in files if _order(_bytes(other)) < _order(_bytes(member.name))]
        made += _change(draw, member, content, names, linkable) if member.name != "system" else [(member, content)]
    made += [(member, content) for member, content in draw(_trees(max_size=3)) if _bytes(member.name) not in names]
    return _whole({member.name: (member, content) for member, content in made}.values())


def _change(
    draw: st.DrawFn, member: tarfile.TarInfo, content: bytes, names: Collection[bytes], linkable: Sequence[str]
) -> list[Member]:
    name = _bytes(member.name)
    what = draw(_CHANGES)
    changed = copy(member)
    if what == "link" and linkable and not member.isdir():
        return [_member(name, tarfile.LNKTYPE, draw, linkable)]
    if what == "kind" and (member.isdir() or draw(st.booleans())):
        return [_any(draw, name, linkable, folders=False)]
    if what == "kind":
        return [_member(name, tarfile.DIRTYPE, draw), _any(draw, name + b"/a")]
    if what == "about" and (linkable or not member.islnk()):
        _describe(changed, content, draw, linkable)
    if what == "content" and member.isreg():
        content = _other(content)
        changed.size = len(content)
    if what == "name" and not member.isdir():
        other_name = b"/".join([*name.split(b"/")[:-1], draw(st.sampled_from(_NAMES))])
        changed.name = _text(other_name if other_name not in names else name)
    return [] if what == "gone" else [(changed, content)]


def _other(content: bytes) -> bytes:
    """Of the same size, or with such a change in what is packed."""
    if content.startswith(GZIP_MAGIC):
        with suppress(OSError, EOFError, zlib.error):  # a drawn content may only begin like one
            return gzip.compress(_other(gzip.decompress(content)), 6, mtime=0)
    return bytes(byte ^ 0x55 for byte in content[:3]) + content[3:]


def _laid_over(first: Sequence[Member], second: Sequence[Member]) -> Layers:
    """Tarballs of one image agree on what is a folder, as one could not be unpacked over the other else. Nor could one
    over a folder with a default ACL, which all that is made in it inherits. None links to what it then replaces."""
    folders = {member.name: member.isdir() for member, _ in first}
    agreed = [each for each in second if folders.get(each[0].name, each[0].isdir()) == each[0].isdir()]
    upper = _whole(agreed)
    named = {member.name for member, _ in upper}
    lower = _linked(_whole((_plain(member) if member.name in named else member, content) for member, content in first))
    return [
        lower,
        _linked(upper, [member.name for member, _ in lower if not member.isdir() and member.name not in named]),
    ]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without a default ACL."""
    changed = copy(member)
    changed.pax_headers = {key: value for key, value in member.pax_headers.items() if key != DEFAULT_ACL}
    return changed


def _whole(members: Iterable[Member]) -> list[Member]:
    """In the order of a tree, without what has lost its folder."""
    kept: dict[bytes, Member] = {}
    for member, content in sorted(members, key=lambda each: _order(_bytes(each[0].name))):
        name = _bytes(member.name)
        if all(parent in kept and kept[parent][0].isdir() for parent in _parents(name)):
            kept[name] = member, content
    return list(kept.values())


def _linked(members: Iterable[Member], before: Iterable[str] = ()) -> list[Member]:
    """Without links to what is not there before them."""
    kept, there = [], set(before)
    for member, content in members:
        if not member.islnk() or member.linkname in there - {member.name}:
            kept.append((member, content))
            there |= set() if member.isdir() else {member.name}
    return kept


def tarball(members: Sequence[Member]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            written, stored = _sparse(member, content) if SPARSE in member.pax_headers else (member, content)
            tar.addfile(written, io.BytesIO(stored))
    return plain.getvalue()


def _sparse(member: tarfile.TarInfo, content: bytes) -> Member:
    """In format 1.0 of GNU tar: a map of where there are bytes, in decimal lines, and those bytes."""
    blocks = {start: content[start : start + _HOLE_BYTES] for start in range(0, len(content), _HOLE_BYTES)}
    blocks = {start: block for start, block in blocks.items() if any(block)} | {len(content): b""}
    numbers = [len(blocks), *(number for start, block in blocks.items() for number in (start, len(block)))]
    lines = "".join(f"{number}\n" for number in numbers).encode()
    stored = lines + bytes(-len(lines) % tarfile.BLOCKSIZE) + b"".join(blocks.values())
    written = copy(member)
    written.size = len(stored)
    about = {"GNU.sparse.minor": "0", "GNU.sparse.name": member.name, "GNU.sparse.realsize": str(len(content))}
    written.pax_headers = {**member.pax_headers, **about}
    return written, stored


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
    records = {f"{XATTR}{key}": os.getxattr(path, key, follow_symlinks=False) for key in attributes}
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


@cache
def _kinds(*, linkable: bool, folders: bool) -> st.SearchStrategy[bytes]:
    kinds = [tarfile.REGTYPE] * 3 + [tarfile.SYMTYPE] * 2 + [tarfile.FIFOTYPE]
    kinds += [tarfile.DIRTYPE] if folders else []
    kinds += [tarfile.LNKTYPE] * 4 if linkable else []
    kinds += [tarfile.CHRTYPE, tarfile.BLKTYPE] if _NODES else []
    return st.sampled_from(kinds)


def _any(draw: st.DrawFn, name: bytes, linkable: Sequence[str] = (), *, folders: bool = True) -> Member:
    return _member(name, draw(_kinds(linkable=bool(linkable), folders=folders)), draw, linkable)


def _member(name: bytes, kind: bytes, draw: st.DrawFn, linkable: Sequence[str] = ()) -> Member:
    member = tarfile.TarInfo(_text(name))
    member.type = kind
    content = draw(_contents) if kind == tarfile.REGTYPE else b""
    member.size = len(content)
    _describe(member, content, draw, linkable)
    return member, content


def _describe(member: tarfile.TarInfo, content: bytes, draw: st.DrawFn, linkable: Sequence[str]) -> None:
    """All but its name, its kind and its content is drawn anew."""
    member.mtime, mode, owner = draw(_LOOKS)
    member.mode = mode or (0o2755 if member.isdir() else 0o4755)
    member.uid = owner if _NODES else os.geteuid()
    member.gid = member.uid if _NODES else os.getegid()
    member.pax_headers = _attributes(draw, member)
    if bytes(_HOLE_BYTES) in content and draw(st.booleans()):
        member.pax_headers[SPARSE] = "1"
    if member.issym():
        member.linkname = draw(_TARGETS)
    elif member.islnk():
        member.linkname = draw(st.sampled_from(linkable))
    elif member.isdev() and not member.isfifo():
        member.devmajor, member.devminor = 1, draw(_MINORS)


def _attributes(draw: st.DrawFn, member: tarfile.TarInfo) -> dict[str, str]:
    """What files of this kind may have: a capability no folder, an ACL no mode that says otherwise."""
    if not (member.isreg() or member.isdir()) or (member.isdir() and draw(_ONE_IN_SIX)):
        return {}
    note, has_first, has_acl = draw(_ATTRIBUTES)
    found: dict[str, bytes] = {}
    if note:
        found[NOTE] = note
    if _NODES and has_first:
        found |= {DEFAULT_ACL: ACL_BYTES} if member.isdir() else {CAPABILITY: _CAPABILITY_BYTES}
    if _NODES and member.isreg() and member.mode == _ACL_MODE and has_acl:
        found[ACL] = ACL_BYTES
    return {name: _text(found[name]) for name in sorted(found)}


def _parents(name: bytes) -> list[bytes]:
    parts = name.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


def _order(name: bytes) -> list[bytes]:
    return name.split(b"/")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
