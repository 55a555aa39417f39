"""Downloads that are kept: shared by all runs and processes of a user, bounded, never believed without their digest.

Entries are named by their SHA-256. One that is on its way is `<sha256>.part`, locked by whoever fetches it; after a
kill the next one goes on where it stopped.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog

from coreimage.cache import cache_folder
from coreimage.errors import HostError, VerificationError
from coreimage.http.download import Downloader

log = structlog.get_logger("coreimage.http")

DEFAULT_LIMIT_BYTES = 4 << 30
_PART = ".part"


def default_folder() -> Path:
    return cache_folder() / "downloads"


class CachedFetch:
    """A `Fetch` that keeps what has a digest, unless it is on this machine anyway."""

    def __init__(self, downloader: Downloader, cache: DownloadCache) -> None:
        self._downloader, self._cache = downloader, cache

    def __call__(
        self,
        url: str,
        path: Path,
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        limit_bytes: int | None = None,
    ) -> Path:
        if sha256 is None or size_bytes is None or not url.startswith("http"):
            return self._downloader(url, path, sha256=sha256, size_bytes=size_bytes, limit_bytes=limit_bytes)
        complete = partial(self._downloader.complete, url, sha256=sha256, size_bytes=size_bytes)
        self._cache.fetch(sha256, path, complete)
        return path


class DownloadCache:
    """Keeps at most `limit_bytes` in `folder`, dropping what was not used for longest."""

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def fetch(self, sha256: str, target: Path, download: Callable[[BinaryIO], object]) -> None:
        """Puts what has this digest at `target`: from here, or through `download`, which completes the file given it.

        Processes that want the same at the same time fetch it once. Raises what `download` raises, VerificationError
        when it made something else, HostError when the cache's disk cannot be written.
        """
        entry = self._folder / sha256
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._give(entry, target):
                with self._locked(entry) as part:
                    if not self._give(entry, target):
                        self._complete(entry, part, download)
                        self._give(entry, target)
            self._shrink(keep=entry)
        except OSError as error:
            raise HostError(
                f"the download cache cannot be used: {error.strerror}",
                where=str(self._folder),
                resolution="free some space, or name another folder in COREIMAGE_CACHE",
            ) from error

    def clear(self) -> None:
        """Empties the cache, save for what others are fetching just now."""
        for path in self._entries():
            self._drop(path)

    def _complete(self, entry: Path, part: BinaryIO, download: Callable[[BinaryIO], object]) -> None:
        try:
            download(part)
        except HostError:
            part.truncate(0)
            raise
        part.flush()
        part.seek(0)
        if _digest(part) != entry.name:
            part.truncate(0)
            raise VerificationError("the download is not what was asked for", where=entry.name)
        _part(entry).replace(entry)

    def _give(self, entry: Path, target: Path) -> bool:
        try:
            with entry.open("rb") as file:
                right = _digest(file) == entry.name
        except FileNotFoundError:
            return False
        if not right:
            log.warning("a damaged file is dropped from the download cache", file=str(entry))
            entry.unlink(missing_ok=True)
            return False
        with suppress(OSError):
            os.utime(entry)
        return _linked(entry, target)

    @contextmanager
    def _locked(self, entry: Path) -> Iterator[BinaryIO]:
        """The entry's part, ours alone. A lock is on a file, not on its name: when we have it, the name may be gone."""
        path = _part(entry)
        while True:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_at(file, path) or entry.exists():
                    yield file
                    return

    def _shrink(self, *, keep: Path) -> None:
        entries = sorted(self._entries(), key=_used)
        total_bytes = sum(map(_size, entries))
        for path in entries:
            if total_bytes <= self._limit_bytes:
                return
            if path != keep:
                total_bytes -= _size(path)
                self._drop(path)

    def _entries(self) -> list[Path]:
        return [path for path in self._folder.glob("*") if path.is_file()] if self._folder.is_dir() else []

    def _drop(self, path: Path) -> None:
        """Not while somebody fetches it; a finished entry that is in use lives on at its target."""
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            if path.suffix == _PART:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _part(entry: Path) -> Path:
    return entry.with_name(entry.name + _PART)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _linked(entry: Path, target: Path) -> bool:
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(entry)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        shutil.copyfile(entry, target)
    return True


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _used(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0
