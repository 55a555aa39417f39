"""A store in a directory: the embedded default.

Every write goes to a temporary file beside the target and is renamed or linked into place. `if_match` is decided
under an advisory lock, since a file system has no compare-and-swap; a killed writer's lock goes with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from coreimage.errors import ConflictError, HostError, NotFoundError
from coreimage.storage.store import ObjectInfo, check_key

_TEMPORARY = ".coreimage-tmp-"


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

    @property
    def url(self) -> str:
        return self._root.as_uri()

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        with self._temporary(key) as (file, path):
            file.write(content)
            file.close()
            return self._place(key, path, if_absent=if_absent, if_match=if_match)

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        with self._temporary(key) as (file, temporary), path.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)
            file.close()
            return self._place(key, temporary, if_absent=if_absent, if_match=if_match)

    @contextmanager
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[BinaryIO]:
        try:
            file = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFoundError(f"{key} is not in the store", where=self.url) from None
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
        top = self._root / prefix.rpartition("/")[0]
        keys = (
            (Path(folder) / name).relative_to(self._root).as_posix()
            for folder, _, names in os.walk(top)
            for name in names
            if not name.startswith(_TEMPORARY) and name != _LOCK
        )
        for key in sorted(key for key in keys if key.startswith(prefix)):
            with suppress(FileNotFoundError):
                yield self._info(key, self._root / key)

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        if self.head(source) is None:
            raise NotFoundError(f"{source} is not in the store", where=self.url)
        return self.put_file(target, self._path(source), media_type="", if_absent=if_absent)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            path.unlink(missing_ok=True)
            with suppress(OSError):
                for folder in path.parents:
                    if folder == self._root:
                        break
                    folder.rmdir()

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _info(self, key: str, path: Path) -> ObjectInfo:
        stat = path.stat()
        return ObjectInfo(key, stat.st_size, _etag(stat), datetime.fromtimestamp(stat.st_mtime, UTC))

    @contextmanager
    def _temporary(self, key: str) -> Iterator[tuple[BinaryIO, Path]]:
        folder = self._path(key).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        except OSError as error:
            raise HostError(f"cannot write to the store: {error.strerror}", where=str(folder)) from error
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, 0o644)
                yield file, path
        except OSError as error:
            raise HostError(
                f"cannot write to the store: {error.strerror}",
                where=str(folder / key.rpartition("/")[2]),
                resolution="free some space, or name another store with --store",
            ) from error
        finally:
            path.unlink(missing_ok=True)

    def _place(self, key: str, temporary: Path, *, if_absent: bool, if_match: str | None) -> ObjectInfo:
        path = self._path(key)
        info = self._info(key, temporary)
        if if_absent:
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise ConflictError(f"{key} exists already", where=self.url) from None
        elif if_match is not None:
            with self._locked():
                found = self.head(key)
                if found is None or found.etag != if_match:
                    raise ConflictError(f"{key} was changed by somebody else", where=self.url)
                temporary.replace(path)
        else:
            temporary.replace(path)
        return info

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._root / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


_LOCK = ".coreimage-lock"


def _etag(stat: os.stat_result) -> str:
    identity = f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
