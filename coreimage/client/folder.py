"""A tree that lies in a folder, read and written. Owners, devices and most attributes take root to write."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from coreimage.client.errors import RepositoryError
from coreimage.client.tree import XATTR, Entry, Kind, Tree

_KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}
_CHUNK_BYTES = 1 << 20


class FolderTree:
    """What is below `folder`, itself not counted. Everything is read once; it must not change after."""

    def __init__(self, folder: Path) -> None:
        self._root = os.fsencode(folder)
        self._entries = list(read_folder(folder))
        self._files = {entry.name for entry in self._entries if entry.kind == "file"}

    def entries(self) -> list[Entry]:
        return self._entries

    def open(self, name: bytes) -> IO[bytes]:
        if name not in self._files:
            raise KeyError(name)
        return Path(os.fsdecode(os.path.join(self._root, name))).open("rb")  # noqa: PTH118


def read_folder(folder: Path) -> Iterator[Entry]:
    """The entries of a FolderTree, one at a time."""
    root, firsts = os.fsencode(folder), dict[tuple[int, int], bytes]()
    for name in sorted(_walk(root, b"")):
        yield _entry(name, os.path.join(root, name), firsts)  # noqa: PTH118


def write_folder(tree: Tree, folder: Path, on_entry: Callable[[int, int], None] = lambda _done, _total: None) -> None:
    """Makes `folder`, in which there is nothing but folders that something is mounted at, hold `tree`. Folders are
    described last: filling them changes their times, and what is made in them inherits from their group and their
    attributes. `on_entry` hears how many entries there are, and are written.

    Raises RepositoryError for a name below something that is no folder: nothing is written through a link.
    """
    root = os.fsencode(folder)
    folders: list[Entry] = []
    made = {b""}
    entries = list(tree.entries())
    for done, entry in enumerate(entries, 1):
        on_entry(done, len(entries))
        _need_folder(root, entry.name.rpartition(b"/")[0], made)
        made |= {entry.name} if entry.kind == "folder" else set()
        path = os.path.join(root, entry.name)  # noqa: PTH118
        if entry.kind == "link":
            os.link(os.path.join(root, entry.target), path, follow_symlinks=False)  # noqa: PTH118
            continue
        _make(tree, entry, path)
        if entry.kind == "folder":
            folders.append(entry)
        else:
            _describe(entry, path)
    for entry in reversed(folders):
        _describe(entry, os.path.join(root, entry.name))  # noqa: PTH118


def _need_folder(root: bytes, name: bytes, made: set[bytes]) -> None:
    """A folder that nothing describes is made as it comes."""
    if name in made:
        return
    _need_folder(root, name.rpartition(b"/")[0], made)
    try:
        _make_folder(os.path.join(root, name), 0o755)  # noqa: PTH118
    except FileExistsError as error:
        raise RepositoryError(f"{name!r} is no folder, and has something below it") from error
    made.add(name)


def _make(tree: Tree, entry: Entry, path: bytes) -> None:
    if entry.kind == "folder":
        _make_folder(path, 0o700)
    elif entry.kind == "symlink":
        os.symlink(entry.target, path)  # noqa: PTH211
    elif entry.kind == "file":
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file, tree.open(entry.name) as content:
            shutil.copyfileobj(content, file, _CHUNK_BYTES)
    else:
        kinds = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}
        os.mknod(path, kinds[entry.kind] | 0o600, os.makedev(*entry.device))


def _make_folder(path: bytes, mode: int) -> None:
    """What is mounted somewhere stays there."""
    if not os.path.ismount(path):
        os.mkdir(path, mode)  # noqa: PTH102


def _describe(entry: Entry, path: bytes) -> None:
    """The owner first: changing it takes set-user-id bits and capabilities away."""
    if (entry.uid, entry.gid) != (os.geteuid(), os.getegid()):
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != "symlink":
        os.chmod(path, entry.mode)  # noqa: PTH101
    for key, value in entry.records:
        if key.startswith(XATTR):
            os.setxattr(path, key.removeprefix(XATTR), value, follow_symlinks=False)
    os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)


def _walk(folder: bytes, prefix: bytes) -> Iterator[bytes]:
    with os.scandir(folder) as found:
        for each in found:
            yield prefix + each.name
            if each.is_dir(follow_symlinks=False):
                yield from _walk(each.path, prefix + each.name + b"/")


def _entry(name: bytes, path: bytes, firsts: dict[tuple[int, int], bytes]) -> Entry:
    about = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(about.st_mode)]
    first = firsts.setdefault((about.st_dev, about.st_ino), name) if kind != "folder" else name
    if first != name:
        return Entry(name, "link", target=first)
    attributes = sorted(os.listxattr(path, follow_symlinks=False))
    return Entry(
        name,
        kind,
        mode=stat.S_IMODE(about.st_mode) if kind != "symlink" else 0o777,
        uid=about.st_uid,
        gid=about.st_gid,
        mtime=int(about.st_mtime),
        target=os.readlink(path) if kind == "symlink" else b"",  # noqa: PTH115
        device=(os.major(about.st_rdev), os.minor(about.st_rdev)) if kind in {"char", "block"} else (0, 0),
        records=tuple((XATTR + key, os.getxattr(path, key, follow_symlinks=False)) for key in attributes),
        size_bytes=about.st_size if kind == "file" else 0,
        sha256=_sha256(path) if kind == "file" else b"",
    )


def _sha256(path: bytes) -> bytes:
    with Path(os.fsdecode(path)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
