"""A store in a directory: the embedded default. An object is the file of its name.

Every write goes to a temporary file first and is renamed or linked into place. Placing and deleting are decided under
an advisory lock, since a file system has no compare-and-swap; a killed writer's lock goes with it.
What a file system cannot hold is refused: `a` and `a/b` cannot both be objects here.
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

from coreimage.errors import ConflictError, HostError, NotFoundError, VerificationError
from coreimage.storage.store import ObjectInfo, check_key

_OWN = ".coreimage"
"""The folder for the lock and the temporary files: no key starts with it."""
_ABANDONED_S = 3600.0


class _Slice:
    """The part of an open file between here and `stop`."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._left = file, size_bytes

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        chunk = self._file.read(wanted)
        self._left -= len(chunk)
        return chunk


class DirectoryStore:
    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._own = self._root / _OWN

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
            raise self._absent(key) from None
        except OSError as error:
            raise HostError(f"cannot read from the store: {error.strerror}", where=f"{self.url}/{key}") from error
        with file:
            file.seek(start)
            yield file if stop is None else cast("BinaryIO", _Slice(file, max(0, stop - start)))

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            return self._info(key, path) if path.is_file() else None
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if prefix:
            check_key(f"{prefix}x")
        for key in sorted(key for key in self._keys(prefix.rpartition("/")[0]) if key.startswith(prefix)):
            with suppress(FileNotFoundError):
                yield self._info(key, self._root / key)

    def folders(self, prefix: str) -> tuple[str, ...]:
        place = self._path(prefix.removesuffix("/"))
        return tuple(sorted(path.name for path in place.iterdir() if path.is_dir())) if place.is_dir() else ()

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        try:
            return self.put_file(target, self._path(source), media_type="", if_absent=if_absent)
        except (FileNotFoundError, NotFoundError):
            raise self._absent(source) from None

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
        """Folders are no objects: an empty one goes with its last."""
        with suppress(OSError):
            for folder in path.parents:
                if folder == self._root:
                    break
                folder.rmdir()

    def _keys(self, folder: str) -> Iterator[str]:
        for place, folders, names in os.walk(self._root / folder):
            if Path(place) == self._root and _OWN in folders:
                folders.remove(_OWN)
            for name in names:
                yield (Path(place) / name).relative_to(self._root).as_posix()

    def _path(self, key: str) -> Path:
        if check_key(key).split("/")[0] == _OWN:
            raise VerificationError(f"{key!r} is the store's own", resolution=f"use keys that do not start with {_OWN}")
        return self._root / key

    def _absent(self, key: str) -> NotFoundError:
        return NotFoundError(f"{key} is not in the store", where=self.url)

    def _info(self, key: str, path: Path) -> ObjectInfo:
        stat = path.stat()
        return ObjectInfo(key, stat.st_size, _etag(stat), datetime.fromtimestamp(stat.st_mtime, UTC))

    @contextmanager
    def _temporary(self) -> Iterator[tuple[BinaryIO, Path]]:
        path = None
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            self._sweep()
            handle, name = tempfile.mkstemp(prefix="tmp-", dir=self._own)
            path = Path(name)
            with os.fdopen(handle, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.fchmod(handle, 0o644)
                yield file, path
        except FileNotFoundError:
            raise
        except OSError as error:
            raise HostError(
                f"cannot write to the store: {error.strerror}",
                where=self.url,
                resolution="free some space and check the folder's permissions, or name another store",
            ) from error
        finally:
            if path:
                path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Removes what killed writers left. A living one holds a lock on its file, whatever its age."""
        for path in self._own.glob("tmp-*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    with path.open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()

    def _place(self, key: str, file: BinaryIO, temporary: Path, *, if_absent: bool, if_match: str | None) -> ObjectInfo:
        path = self._path(key)
        file.flush()
        os.fsync(file.fileno())
        with self._locked():
            # The kernel stamps files by its tick, and inodes are used again: both together can repeat within one tick.
            os.utime(temporary, ns=(now := time.time_ns(), now))
            info = self._info(key, temporary)
            if if_match is not None:
                self._check_unchanged(key, if_match)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(temporary, path) if if_absent else temporary.replace(path)
            except OSError as error:
                raise self._placing_error(key, error) from error
        return info

    def _check_unchanged(self, key: str, etag: str) -> None:
        found = self.head(key)
        if found is None or found.etag != etag:
            raise ConflictError(f"{key} was changed by somebody else", where=self.url)

    def _placing_error(self, key: str, error: OSError) -> Exception:
        path = self._path(key)
        if path.is_dir() or error.errno == errno.ENOTDIR or (error.errno == errno.EEXIST and not path.exists()):
            return ConflictError(
                f"{key} cannot be stored: of two objects, one's key is a folder of the other's", where=self.url
            )
        if error.errno == errno.EEXIST:
            return ConflictError(f"{key} exists already", where=self.url)
        self._prune(path)
        return error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._own.mkdir(parents=True, exist_ok=True)
        with (self._own / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _etag(stat: os.stat_result) -> str:
    identity = f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
