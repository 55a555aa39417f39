"""A version in a folder: full images and deltas of both forms applied, and what was written read back.

The folder is as the tarballs have it: `system/`, which may be a file system mounted there, `assets/`, `hardware.yaml`.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from coreimage.client.compact import UNPACKERS, Filter, PatchedTree
from coreimage.client.documents import Image
from coreimage.client.errors import RepositoryError, TargetError
from coreimage.client.folder import FolderTree, read_folder, write_folder
from coreimage.client.install import DISK_FULL, OnProgress, Step, Wanted, silent
from coreimage.client.layers import LayeredTree
from coreimage.client.tree import Entry, Tree, tree_sha256

VERSION_NAMES = frozenset(
    {
        b"system/etc/ubuntu-build",
        b"system/etc/system-image/channel.ini",
        b"system/etc/system-image/config.d",
        b"system/etc/system-image/config.d/00_default.ini",
        b"system/etc/system-image/config.d/01_channel.ini",
    }
)
"""What the version's own tarball brings (system-image §2.6): it is no content, and no delta is made of it."""
UNDESCRIBED = frozenset({b"system", b"assets", b"system/lost+found"})
"""Folders that are there although no tarball brings them."""
_VERSION_FILE = re.compile(r"version-\d+\.tar\.xz")
_XZ_MEMORY_BYTES = 128 << 20
"""What `xz -9` takes, as the original server packs."""
_PLAIN_LIMIT_BYTES = 16 << 30
_CHUNK_BYTES = 1 << 20
_CHANGED = "it does not read back as it was written"


class InstalledTree:
    """The content of a version that is in a folder: what deltas from it start with."""

    def __init__(self, folder: Path, *, undescribed: Collection[bytes] = UNDESCRIBED) -> None:
        left_out = VERSION_NAMES | frozenset(undescribed)
        self._tree = FolderTree(folder)
        self._entries = [entry for entry in self._tree.entries() if entry.name not in left_out]

    def entries(self) -> list[Entry]:
        return self._entries

    def open(self, name: bytes) -> IO[bytes]:
        return self._tree.open(name)


@dataclass(frozen=True)
class Record:
    """What a slot holds, whole. `undescribed` are folders in it that are not of the version."""

    channel: str
    device: str
    version: int
    tree_sha256: str
    undescribed: tuple[bytes, ...]


class Slot:
    """Writes `folder`. `record` is a file elsewhere: it is there only while the folder holds a version, whole and on
    the disk. `work` is a folder for this alone, with room for the version unpacked; `run` starts what a delta names.
    """

    def __init__(
        self, folder: Path, record: Path, work: Path, run: Filter, *, on_progress: OnProgress = silent
    ) -> None:
        self._folder, self._record, self._work = folder, record, work
        self._run, self._on_progress = run, on_progress

    def holds(self, wanted: Wanted, image: Image) -> bool:
        held = self.held()
        return held is not None and (held.channel, held.device, held.version, held.tree_sha256) == (
            wanted.channel,
            wanted.device,
            image.version,
            image.tree_sha256 or held.tree_sha256,
        )

    def held(self) -> Record | None:
        """None where nothing is, or something half."""
        try:
            said = json.loads(self._record.read_bytes())
            names = tuple(os.fsencode(name) for name in said["undescribed"])
            return Record(said["channel"], said["device"], int(said["version"]), said["tree_sha256"], names)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None

    def tree(self) -> InstalledTree | None:
        """The base for deltas from what it holds."""
        held = self.held()
        return None if held is None else InstalledTree(self._folder, undescribed=held.undescribed)

    def install(self, wanted: Wanted, steps: Sequence[Step]) -> None:
        """Raises RepositoryError for files that do not make the version that the index says, before anything of the
        folder changes; TargetError when the folder does not hold what was written to it."""
        self._work.mkdir(parents=True, exist_ok=True)
        _empty(self._work)
        with ExitStack() as opened:
            content, whole = _Applied(self._work, self._run, opened, self._on_progress).of(wanted, steps)
            self._forget()
            self._write(whole)
            undescribed = self._compare(whole)
        os.sync()
        self._remember(Record(wanted.channel, wanted.device, steps[-1].image.version, content, undescribed))
        _empty(self._work)

    def _write(self, tree: Tree) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _empty(self._folder)
            write_folder(tree, self._folder, partial(self._on_progress, "write"))
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            problem = f"cannot be written: {error.strerror}"
            raise TargetError(problem, where=os.fsdecode(error.filename or os.fsencode(self._folder))) from error

    def _compare(self, tree: Tree) -> tuple[bytes, ...]:
        """The folders that nothing describes. Raises TargetError."""
        wanted = {entry.name: entry for entry in tree.entries()}
        total, undescribed = len(wanted), []
        for entry in read_folder(self._folder):
            expected = wanted.pop(entry.name, None)
            if expected is None and entry.kind != "folder":
                raise TargetError("something else writes here", where=self._where(entry.name))
            if expected is None:
                undescribed.append(entry.name)
            elif expected != entry:
                raise TargetError(_CHANGED, where=self._where(entry.name))
            self._on_progress("verify", total - len(wanted), total)
        if wanted:
            raise TargetError(_CHANGED, where=self._where(min(wanted)))
        return tuple(undescribed)

    def _where(self, name: bytes) -> str:
        return str(self._folder / os.fsdecode(name))

    def _forget(self) -> None:
        """On the disk, before anything of the folder changes."""
        self._record.unlink(missing_ok=True)
        if self._record.parent.is_dir():
            _sync(self._record.parent)

    def _remember(self, held: Record) -> None:
        said = {
            "channel": held.channel,
            "device": held.device,
            "version": held.version,
            "tree_sha256": held.tree_sha256,
            "undescribed": [os.fsdecode(name) for name in held.undescribed],
        }
        self._record.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._record.with_name(f"{self._record.name}.new")
        unfinished.write_text(json.dumps(said, indent=1) + "\n")
        _sync(unfinished)
        unfinished.replace(self._record)
        _sync(self._record.parent)


class _Applied:
    """The trees that the steps make, one out of the other; nothing of them is written anywhere but to `work`."""

    def __init__(self, work: Path, run: Filter, opened: ExitStack, on_progress: OnProgress) -> None:
        self._work, self._run, self._opened, self._on_progress = work, run, opened, on_progress
        self._count = 0

    def of(self, wanted: Wanted, steps: Sequence[Step]) -> tuple[str, Tree]:
        """The digest of the last version's content, and its files with those that say its number."""
        tree, content = wanted.base, ""
        for done, step in enumerate(steps, 1):
            payloads = [file for file in step.files if not _VERSION_FILE.fullmatch(file.name)]
            tree = self._after(None if step.image.type == "full" else tree, step.image, payloads)
            content = tree_sha256(tree.entries())
            if step.image.tree_sha256 not in {None, content}:
                raise RepositoryError(
                    "the files do not make the version that the index says",
                    where=f"{wanted.channel} {wanted.device} {step.image.version}",
                )
            self._on_progress("unpack", done, len(steps))
        assert tree is not None  # noqa: S101 - a way has steps
        own = [file for file in steps[-1].files if _VERSION_FILE.fullmatch(file.name)]
        return content, self._layered(own, tree)

    def _after(self, base: Tree | None, image: Image, payloads: Sequence[Path]) -> Tree:
        if image.form != "compact":
            return self._layered(payloads, base)
        if base is None:
            raise RepositoryError("a delta has nothing to start from", where=payloads[0].name)
        for delta in payloads:
            base = PatchedTree(delta, base, self._next(folder=True), self._run)
        return base

    def _layered(self, packed: Sequence[Path], base: Tree | None) -> Tree:
        tars = [self._opened.enter_context(_tar(self._unpacked(file))) for file in packed]
        return LayeredTree(tars, base=base)

    def _unpacked(self, packed: Path) -> Path:
        plain = self._next()
        if packed.name.endswith(".zst"):
            self._run(UNPACKERS["zstd"], packed, plain)
        else:
            _unpack_xz(packed, plain)
        return plain

    def _next(self, *, folder: bool = False) -> Path:
        self._count += 1
        path = self._work / str(self._count)
        path.mkdir() if folder else None
        return path


def _tar(plain: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(plain, "r:")
    except (tarfile.TarError, EOFError) as error:
        raise RepositoryError(f"not a tar archive: {error}", where=plain.name) from error


def _unpack_xz(packed: Path, plain: Path) -> None:
    with packed.open("rb") as source, plain.open("wb") as target:
        try:
            for chunk in _plain_chunks(source):
                target.write(chunk)
                if target.tell() > _PLAIN_LIMIT_BYTES:
                    raise RepositoryError("it unpacks to more than any image is", where=packed.name)
        except (lzma.LZMAError, EOFError) as error:
            raise RepositoryError(f"it is no whole xz file: {error}", where=packed.name) from error


def _plain_chunks(source: IO[bytes]) -> Iterator[bytes]:
    """Of all streams that follow one another, as compressors of several threads write them."""
    while head := source.read(_CHUNK_BYTES):
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        packed = head
        while not unpacker.eof:
            if not packed and unpacker.needs_input:
                raise EOFError("it ends too early")
            yield unpacker.decompress(packed, _CHUNK_BYTES)
            packed = source.read(_CHUNK_BYTES) if unpacker.needs_input else b""
        source.seek(-len(unpacker.unused_data), os.SEEK_CUR)


def _empty(folder: Path) -> None:
    """All that is below, but for folders that something may be mounted at."""
    for found in list(os.scandir(folder)):
        path = Path(found.path)
        if not found.is_dir(follow_symlinks=False):
            path.unlink()
        elif path.name != "lost+found":
            _empty(path)
            path.rmdir() if not path.is_mount() else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
