"""A slot: a folder that holds one version. Images of all forms are applied to it, and what was written is read back.

The folder is as the tarballs have it: `system/`, which may be a file system mounted there, `assets/`, `hardware.yaml`.
"""

from __future__ import annotations

import json
import lzma
import os
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from coreimage.client.apply import DISK_FULL, ApplyPlan, InstallRequest, OnProgress, ignore_progress
from coreimage.client.compact import UNPACKERS, Filter, PatchedTree
from coreimage.client.documents import Image
from coreimage.client.errors import RepositoryError, TargetError
from coreimage.client.folder import FolderTree, read_folder, write_folder
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
"""What the version file brings (system-image §2.6): it is no content, and no delta is made of it."""
UNDESCRIBED = frozenset({b"system", b"assets", b"system/lost+found"})
"""Folders that are there although no tarball brings them."""
_XZ_MEMORY_BYTES = 128 << 20
"""What `xz -9` takes, as the original server packs."""
_PLAIN_LIMIT_BYTES = 16 << 30
_CHUNK_BYTES = 1 << 20
_READ_BACK_WRONG = "it does not read back as it was written"


class InstalledTree:
    """The content of the version that a folder holds: what deltas from it start with.

    Everything is read once; the folder must not change afterwards. `undescribed` are folders that are no part of it.
    """

    def __init__(self, folder: Path, *, undescribed: Collection[bytes] = UNDESCRIBED) -> None:
        left_out = VERSION_NAMES | frozenset(undescribed)
        self._tree = FolderTree(folder)
        self._entries = [entry for entry in self._tree.entries() if entry.name not in left_out]

    def entries(self) -> list[Entry]:
        """Return the entries of the content in the byte order of their names."""
        return self._entries

    def open(self, name: bytes) -> IO[bytes]:
        """Open the content of a file. Raises KeyError for a name that is none."""
        return self._tree.open(name)


@dataclass(frozen=True)
class Record:
    """Which version a slot holds, whole. `undescribed` are folders in the slot that the version does not have."""

    channel: str
    device: str
    version: int
    tree_sha256: str
    undescribed: tuple[bytes, ...]


class Slot:
    """A folder that holds one version, or nothing that counts.

    Args:
        folder: The slot itself. What is mounted below it stays mounted.
        record: A file elsewhere, which is there only while the folder holds a version, whole and on the disk.
        work: A folder for this alone, with room for the version unpacked.
        run: Starts the programs that a delta names.
        on_progress: Is told how far each activity is.
    """

    def __init__(
        self, folder: Path, record: Path, work: Path, run: Filter, *, on_progress: OnProgress = ignore_progress
    ) -> None:
        self._folder, self._record, self._work = folder, record, work
        self._run, self._on_progress = run, on_progress

    def holds(self, request: InstallRequest, image: Image) -> bool:
        """Return whether the slot holds the version of `image`."""
        held = self.held()
        return held is not None and (held.channel, held.device, held.version, held.tree_sha256) == (
            request.channel,
            request.device,
            image.version,
            image.tree_sha256 or held.tree_sha256,
        )

    def held(self) -> Record | None:
        """Return what the slot holds; None where there is nothing, or something half."""
        try:
            values = json.loads(self._record.read_bytes())
            names = tuple(os.fsencode(name) for name in values["undescribed"])
            return Record(values["channel"], values["device"], int(values["version"]), values["tree_sha256"], names)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def tree(self) -> InstalledTree | None:
        """Return the content of the slot, which deltas to the next version start from; None where it holds nothing."""
        held = self.held()
        return None if held is None else InstalledTree(self._folder, undescribed=held.undescribed)

    def apply(self, plan: ApplyPlan) -> None:
        """Make the folder hold what the plan leads to, and record it when all of it is on the disk.

        Raises:
            RepositoryError: The files do not make the version that the index says; nothing of the folder changed.
            TargetError: The folder cannot be written, or does not hold what was written to it.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        _empty(self._work)
        with ExitStack() as opened:
            content_sha256, tree = _Applier(self._work, self._run, opened, self._on_progress).apply(plan)
            self._forget()
            self._write(tree)
            undescribed = self._compare(tree)
        os.sync()
        self._remember(Record(plan.request.channel, plan.request.device, plan.version, content_sha256, undescribed))
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
        """Read the folder back, and return the folders in it that `tree` does not have. Raises TargetError."""
        missing = {entry.name: entry for entry in tree.entries()}
        total, undescribed = len(missing), []
        for entry in read_folder(self._folder):
            expected = missing.pop(entry.name, None)
            where = str(self._folder / os.fsdecode(entry.name))
            if expected is None and entry.kind != "folder":
                raise TargetError("something else writes here", where=where)
            if expected is None:
                undescribed.append(entry.name)
            elif expected != entry:
                raise TargetError(_READ_BACK_WRONG, where=where)
            self._on_progress("verify", total - len(missing), total)
        if missing:
            raise TargetError(_READ_BACK_WRONG, where=str(self._folder / os.fsdecode(min(missing))))
        return tuple(undescribed)

    def _forget(self) -> None:
        """Remove the record, on the disk too, before anything of the folder changes."""
        self._record.unlink(missing_ok=True)
        if self._record.parent.is_dir():
            _sync(self._record.parent)

    def _remember(self, held: Record) -> None:
        """Write the record whole or not at all, and on the disk."""
        values = {
            "channel": held.channel,
            "device": held.device,
            "version": held.version,
            "tree_sha256": held.tree_sha256,
            "undescribed": [os.fsdecode(name) for name in held.undescribed],
        }
        self._record.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._record.with_name(f"{self._record.name}.new")
        unfinished.write_text(json.dumps(values, indent=1) + "\n")
        _sync(unfinished)
        unfinished.replace(self._record)
        _sync(self._record.parent)


class _Applier:
    """Makes the trees of a plan, one out of the other. Nothing is written but to `work`; tarballs stay `opened`."""

    def __init__(self, work: Path, run: Filter, opened: ExitStack, on_progress: OnProgress) -> None:
        self._work, self._run, self._opened, self._on_progress = work, run, opened, on_progress
        self._count = 0

    def apply(self, plan: ApplyPlan) -> tuple[str, Tree]:
        """Return the digest of the new version's content, and that content with its version file.

        Raises:
            RepositoryError: An image does not make the content that the index says.
        """
        tree, content_sha256 = plan.request.base, ""
        for done, verified in enumerate(plan.images, 1):
            image = verified.image
            tree = self._after(None if image.type == "full" else tree, image, verified.payloads)
            content_sha256 = tree_sha256(tree.entries())
            if image.tree_sha256 not in {None, content_sha256}:
                raise RepositoryError(
                    "the files do not make the version that the index says",
                    where=f"{plan.request.channel} {plan.request.device} {image.version}",
                )
            self._on_progress("unpack", done, len(plan.images))
        return content_sha256, self._layered(plan.images[-1].version_files, tree)

    def _after(self, base: Tree | None, image: Image, payloads: Sequence[Path]) -> Tree:
        """Return what an image makes of `base`."""
        if image.form != "compact":
            return self._layered(payloads, base)
        if base is None:
            raise RepositoryError("a delta has nothing to start from", where=payloads[0].name)
        for delta in payloads:
            base = PatchedTree(delta, base, self._next(folder=True), self._run)
        return base

    def _layered(self, packed_files: Sequence[Path], base: Tree | None) -> Tree:
        """Return the tree of tarballs over `base`."""
        tars = []
        for packed in packed_files:
            plain = self._next()
            if packed.name.endswith(".zst"):
                self._run(UNPACKERS["zstd"], packed, plain)
            else:
                _unpack_xz(packed, plain)
            tars.append(self._opened.enter_context(_open_tar(plain, packed.name)))
        return LayeredTree(tars, base=base)

    def _next(self, *, folder: bool = False) -> Path:
        """Return a new path in the work folder."""
        self._count += 1
        path = self._work / str(self._count)
        if folder:
            path.mkdir()
        return path


def _open_tar(plain: Path, where: str) -> tarfile.TarFile:
    try:
        return tarfile.open(plain, "r:")
    except (tarfile.TarError, EOFError) as error:
        raise RepositoryError(f"not a tar archive: {error}", where=where) from error


def _unpack_xz(packed: Path, plain: Path) -> None:
    with packed.open("rb") as source, plain.open("wb") as target:
        try:
            for chunk in _plain_chunks(source):
                target.write(chunk)
                if target.tell() > _PLAIN_LIMIT_BYTES:
                    raise RepositoryError("the file unpacks to more than any image has", where=packed.name)
        except (lzma.LZMAError, EOFError) as error:
            raise RepositoryError(f"the file is no whole xz file: {error}", where=packed.name) from error


def _plain_chunks(source: IO[bytes]) -> Iterator[bytes]:
    """Yield what xz streams unpack to, one after the other, as compressors of several threads write them."""
    while head := source.read(_CHUNK_BYTES):
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        packed = head
        while not unpacker.eof:
            if not packed and unpacker.needs_input:
                raise EOFError("the stream ends too early")
            yield unpacker.decompress(packed, _CHUNK_BYTES)
            packed = source.read(_CHUNK_BYTES) if unpacker.needs_input else b""
        source.seek(-len(unpacker.unused_data), os.SEEK_CUR)


def _empty(folder: Path) -> None:
    """Remove everything in a folder except mount points, and `lost+found` with what is in it."""
    for entry in list(os.scandir(folder)):
        path = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False):
            path.unlink()
        elif path.name != "lost+found":
            _empty(path)
            if not path.is_mount():
                path.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
