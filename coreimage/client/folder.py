"""Trees in folders, read and written. Writing owners, devices and most attributes takes root."""

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
    """What is below a folder, without the folder itself.

    Everything is read once, by the constructor; the folder must not change afterwards.
    """

    def __init__(self, folder: Path) -> None:
        self._root = os.fsencode(folder)
        self._entries = list(read_folder(folder))
        self._files = {entry.name for entry in self._entries if entry.kind == "file"}

    def entries(self) -> list[Entry]:
        """Return the entries in the byte order of their names."""
        return self._entries

    def open(self, name: bytes) -> IO[bytes]:
        """Open the content of a file. Raises KeyError for a name that is none."""
        if name not in self._files:
            raise KeyError(name)
        return Path(os.fsdecode(os.path.join(self._root, name))).open("rb")  # noqa: PTH118


def read_folder(folder: Path) -> Iterator[Entry]:
    """Yield the entries of a FolderTree one at a time, each when its content has been read."""
    root, first_names = os.fsencode(folder), dict[tuple[int, int], bytes]()
    for name in sorted(_walk(root, b"")):
        yield _entry(name, os.path.join(root, name), first_names)  # noqa: PTH118


def write_folder(tree: Tree, folder: Path, on_entry: Callable[[int, int], None] = lambda _done, _total: None) -> None:
    """Make an empty folder hold `tree`.

    Folders get their times and attributes last: filling them changes their times, and what is made in them inherits
    from their group and attributes.

    Args:
        tree: What to write.
        folder: There may be mount points in it, and the folders that lead to them, but nothing else.
        on_entry: Is told how many entries are written, and how many there are.

    Raises:
        RepositoryError: A name is below something that is no folder; nothing is written through a link.
    """
    root = os.fsencode(folder)
    folders: list[Entry] = []
    folder_names = {b""}
    entries = list(tree.entries())
    for done, entry in enumerate(entries, 1):
        on_entry(done, len(entries))
        _require_folder(root, entry.name.rpartition(b"/")[0], folder_names)
        path = os.path.join(root, entry.name)  # noqa: PTH118
        if entry.kind == "link":
            os.link(os.path.join(root, entry.target), path, follow_symlinks=False)  # noqa: PTH118
        elif entry.kind == "folder":
            _make_folder(path, 0o700)
            folder_names.add(entry.name)
            folders.append(entry)
        else:
            _make(tree, entry, path)
            _describe(entry, path)
    for entry in reversed(folders):
        _describe(entry, os.path.join(root, entry.name))  # noqa: PTH118


def _require_folder(root: bytes, name: bytes, folder_names: set[bytes]) -> None:
    """Make a folder that the tree does not describe, and those above it."""
    if name in folder_names:
        return
    _require_folder(root, name.rpartition(b"/")[0], folder_names)
    try:
        _make_folder(os.path.join(root, name), 0o755)  # noqa: PTH118
    except FileExistsError as error:
        raise RepositoryError(f"{name!r} is no folder, and has something below it") from error
    folder_names.add(name)


def _make_folder(path: bytes, mode: int) -> None:
    """Make a folder, unless something is mounted there: that stays."""
    if not os.path.ismount(path):
        os.mkdir(path, mode)  # noqa: PTH102


def _make(tree: Tree, entry: Entry, path: bytes) -> None:
    """Make anything but a folder or a link, with its content."""
    if entry.kind == "symlink":
        os.symlink(entry.target, path)  # noqa: PTH211
    elif entry.kind == "file":
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file, tree.open(entry.name) as content:
            shutil.copyfileobj(content, file, _CHUNK_BYTES)
    else:
        types = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}
        os.mknod(path, types[entry.kind] | 0o600, os.makedev(*entry.device))


def _describe(entry: Entry, path: bytes) -> None:
    """Give a file its owner, mode, attributes and time. The owner first: changing it takes set-user-id bits and
    capabilities away."""
    if (entry.uid, entry.gid) != (os.geteuid(), os.getegid()):
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != "symlink":
        os.chmod(path, entry.mode)  # noqa: PTH101
    for key, value in entry.records:
        if key.startswith(XATTR):
            os.setxattr(path, key.removeprefix(XATTR), value, follow_symlinks=False)
    os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)


def _walk(folder: bytes, prefix: bytes) -> Iterator[bytes]:
    """Yield all names below a folder, in no order."""
    with os.scandir(folder) as children:
        for child in children:
            yield prefix + child.name
            if child.is_dir(follow_symlinks=False):
                yield from _walk(child.path, prefix + child.name + b"/")


def _entry(name: bytes, path: bytes, first_names: dict[tuple[int, int], bytes]) -> Entry:
    """Read one entry. `first_names` are the names, by device and inode, of the files that were read before."""
    status = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    first_name = first_names.setdefault((status.st_dev, status.st_ino), name) if kind != "folder" else name
    if first_name != name:
        return Entry(name, "link", target=first_name)
    attributes = sorted(os.listxattr(path, follow_symlinks=False))
    sha256 = b""
    if kind == "file":
        with Path(os.fsdecode(path)).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
    return Entry(
        name,
        kind,
        mode=stat.S_IMODE(status.st_mode) if kind != "symlink" else 0o777,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=int(status.st_mtime),
        target=os.readlink(path) if kind == "symlink" else b"",  # noqa: PTH115
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in {"char", "block"} else (0, 0),
        records=tuple((XATTR + key, os.getxattr(path, key, follow_symlinks=False)) for key in attributes),
        size_bytes=status.st_size if kind == "file" else 0,
        sha256=sha256,
    )
