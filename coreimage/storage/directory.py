"""A store in a directory: the embedded default. The object `a/b` is the file `a/b`.

Every write goes to a temporary file first, which is renamed or linked into place; what a put returned from is on the
disk, its name in its folder and each new folder's name in the folder above included. As a file system has no
compare-and-swap, objects are placed and deleted under an advisory lock, which the kernel gives up when a writer dies.
Unlike in S3, `a` and `a/b` cannot both be objects here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from coreimage.errors import ConflictError, HostError, LostWriteError, NotFoundError, VerificationError
from coreimage.host.disk_space import write_error
from coreimage.host.durable import make_folders, sync_folder
from coreimage.storage.store import ObjectInfo, check_key

_PRIVATE = ".coreimage"
"""The folder for the lock and the temporary files: no key starts with it."""
_ABANDONED_AFTER_S = 3600.0


class DirectoryStore:
    """The objects below one folder, which is made when something is written."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._private = self._root / _PRIVATE

    @property
    def url(self) -> str:
        return self._root.as_uri()

    @property
    def server(self) -> str:
        return ""

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        self._path(key)
        with self._temporary() as (file, temporary):
            file.write(content)
            return self._place(key, file, temporary, if_absent=if_absent, if_match=if_match)

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        self._path(key)
        if not path.is_file():
            raise NotFoundError("there is no such file to store", where=str(path))
        with self._temporary() as (file, temporary):
            shutil.copyfile(path, temporary)
            return self._place(key, file, temporary, if_absent=if_absent, if_match=if_match)

    @contextmanager
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[BinaryIO]:
        try:
            file = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise self._not_found(key) from None
        except OSError as error:
            raise HostError(f"cannot read from the store: {error.strerror}", where=f"{self.url}/{key}") from error
        with file:
            file.seek(start)
            yield file if stop is None else cast("BinaryIO", _Limited(file, max(0, stop - start)))

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            return self._info(key, path) if path.is_file() else None
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise HostError(f"cannot read from the store: {error.strerror}", where=f"{self.url}/{key}") from error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if prefix:
            check_key(f"{prefix}x")
        keys = sorted(key for key in self._keys(prefix.rpartition("/")[0]) if key.startswith(prefix))
        for key in keys:
            with suppress(FileNotFoundError):
                yield self._info(key, self._root / key)

    def folders(self, prefix: str) -> tuple[str, ...]:
        folder = self._path(prefix.removesuffix("/"))
        return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        try:
            return self.put_file(target, self._path(source), media_type="", if_absent=if_absent)
        except (FileNotFoundError, NotFoundError):
            raise self._not_found(source) from None

    def delete(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]
        if not self._root.is_dir():
            return
        with self._locked():
            for path in paths:
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    path.unlink()
                self._prune(path)

    def _prune(self, path: Path) -> None:
        """Remove the folders above `path` that are empty: folders are no objects."""
        with suppress(OSError):
            for folder in path.parents:
                if folder == self._root:
                    break
                folder.rmdir()

    def _keys(self, prefix: str) -> Iterator[str]:
        for folder, folders, names in os.walk(self._root / prefix):
            if Path(folder) == self._root and _PRIVATE in folders:
                folders.remove(_PRIVATE)
            for name in names:
                yield (Path(folder) / name).relative_to(self._root).as_posix()

    def _path(self, key: str) -> Path:
        if check_key(key).split("/")[0] == _PRIVATE:
            raise VerificationError(
                f"{key!r} is the store's own", resolution=f"use keys that do not start with {_PRIVATE}"
            )
        return self._root / key

    def _not_found(self, key: str) -> NotFoundError:
        return NotFoundError(f"{key} is not in the store", where=self.url)

    def _info(self, key: str, path: Path) -> ObjectInfo:
        stat = path.stat()
        return ObjectInfo(key, stat.st_size, _etag(stat), datetime.fromtimestamp(stat.st_mtime, UTC))

    @contextmanager
    def _temporary(self) -> Iterator[tuple[BinaryIO, Path]]:
        """Open a locked temporary file for the block, and remove it afterwards. A failed write becomes a HostError."""
        path = None
        try:
            make_folders(self._private)
            self._remove_abandoned()
            handle, name = tempfile.mkstemp(prefix="tmp-", dir=self._private)
            path = Path(name)
            with os.fdopen(handle, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.fchmod(handle, 0o644)
                yield file, path
        except FileNotFoundError:
            raise
        except OSError as error:
            raise write_error(
                error,
                self.url,
                problem="cannot write to the store",
                resolution="free some space and check the folder's permissions, or name another store",
            ) from error
        finally:
            if path:
                path.unlink(missing_ok=True)

    def _remove_abandoned(self) -> None:
        """Remove the temporary files of killed writers. A living writer holds the lock of its file."""
        for path in self._private.glob("tmp-*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                    with path.open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()

    def _place(self, key: str, file: BinaryIO, temporary: Path, *, if_absent: bool, if_match: str | None) -> ObjectInfo:
        path = self._path(key)
        file.flush()
        os.fsync(file.fileno())
        with self._locked():
            # An etag is made of inode, time and size. The kernel's own times move by its tick, and inodes are used
            # again: within a tick two files could have the same etag.
            os.utime(temporary, ns=(now := time.time_ns(), now))
            info = self._info(key, temporary)
            present = self.head(key)
            if if_match is not None and (present is None or present.etag != if_match):
                raise LostWriteError(f"another writer has changed {key}", where=self.url)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(temporary, path) if if_absent else temporary.replace(path)
                # Every folder, not only new ones: whoever made one may have been killed before it was synced.
                for folder in path.parents:
                    sync_folder(folder)
                    if folder == self._root:
                        break
            except OSError as error:
                raise self._placing_error(key, error) from error
        return info

    def _placing_error(self, key: str, error: OSError) -> Exception:
        path = self._path(key)
        if path.is_dir() or error.errno == errno.ENOTDIR or (error.errno == errno.EEXIST and not path.exists()):
            return ConflictError(
                f"{key} cannot be stored: of two objects, one's key is a folder of the other's", where=self.url
            )
        if error.errno == errno.EEXIST:
            return LostWriteError(f"{key} exists already", where=self.url)
        self._prune(path)
        return error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._private.mkdir(parents=True, exist_ok=True)
        with (self._private / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Limited:
    """The next `size_bytes` of an open file."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._left_bytes = file, size_bytes

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(self._left_bytes if size < 0 else min(size, self._left_bytes))
        self._left_bytes -= len(chunk)
        return chunk


def _etag(stat: os.stat_result) -> str:
    identity = f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
