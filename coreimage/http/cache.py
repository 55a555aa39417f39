"""The cache of downloads: shared by all processes of a user, bounded, and verified by digest at every use.

An entry is named by its SHA-256. While it is downloaded it is `<sha256>.part`, locked by the process that downloads
it; after a kill the next process resumes where that one stopped.
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
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

import structlog

from coreimage.errors import HostError, VerificationError
from coreimage.host.cache_folder import cache_folder
from coreimage.host.disk_space import write_error
from coreimage.http.download import Downloader

log = structlog.get_logger("coreimage.http")

DEFAULT_LIMIT_BYTES = 4 << 30
_PART = ".part"


def default_folder() -> Path:
    """Return where the downloads of this machine's user are cached."""
    return cache_folder() / "downloads"


class CachedFetch:
    """A `Fetch` that caches downloads with a known digest and size; files of this machine are not cached."""

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
        self._cache.fetch(sha256, path, partial(self._downloader.complete, url, sha256=sha256, size_bytes=size_bytes))
        return path


class DownloadCache:
    """The downloads in one folder, at most `limit_bytes` of them; the least recently used are removed first."""

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def fetch(self, sha256: str, target: Path, download: Callable[[BinaryIO], object]) -> None:
        """Put the file with this digest at `target`: the cached one, or one that is downloaded now.

        Processes that need the same file at the same time download it once.

        Args:
            target: Becomes a link to the entry, or a copy on another filesystem.
            download: Completes the file that it is given, which may hold the beginning from an earlier run. Its errors
                are passed on.

        Raises:
            VerificationError: The download has another digest.
            HostError: The folder of the cache cannot be written.
        """
        entry = self._folder / sha256
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._hand_out(entry, target):
                with self._locked_part(entry) as part:
                    if not self._hand_out(entry, target):
                        self._complete(entry, part, download)
                        self._hand_out(entry, target)
            self._shrink(keep=entry)
        except OSError as error:
            raise write_error(
                error,
                str(self._folder),
                problem="the download cache cannot be used",
                resolution="free some space, or name another folder in COREIMAGE_CACHE",
            ) from error

    def clear(self) -> None:
        """Empty the cache, except for what other processes are downloading."""
        for path in self._entries():
            self._remove(path)

    def _complete(self, entry: Path, part: BufferedRandom, download: Callable[[BinaryIO], object]) -> None:
        try:
            download(part)
        except HostError:
            part.truncate(0)
            raise
        part.flush()
        part.seek(0)
        if hashlib.file_digest(part, "sha256").hexdigest() != entry.name:
            part.truncate(0)
            raise VerificationError("the download does not have the digest that was asked for", where=entry.name)
        _part_of(entry).replace(entry)

    def _hand_out(self, entry: Path, target: Path) -> bool:
        """Put the entry at `target`, if the cache has it and it is undamaged."""
        try:
            with entry.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return False
        if sha256 != entry.name:
            log.warning("a damaged file was removed from the download cache", file=str(entry))
            entry.unlink(missing_ok=True)
            return False
        with suppress(OSError):
            os.utime(entry)
        return _link(entry, target)

    @contextmanager
    def _locked_part(self, entry: Path) -> Iterator[BufferedRandom]:
        """Open and lock the part of an entry.

        A lock is on a file, not on its name: when we get the lock, the name may be of no file any more. Then another
        part is made, unless the process that had the lock before us has completed the entry.
        """
        path = _part_of(entry)
        while True:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_still_at(file, path) or entry.exists():
                    yield file
                    return

    def _shrink(self, *, keep: Path) -> None:
        entries = sorted(self._entries(), key=_last_used)
        total_bytes = sum(map(_size_bytes, entries))
        for path in entries:
            if total_bytes <= self._limit_bytes:
                return
            if path != keep:
                total_bytes -= _size_bytes(path)
                self._remove(path)

    def _entries(self) -> list[Path]:
        return [path for path in self._folder.glob("*") if path.is_file()] if self._folder.is_dir() else []

    def _remove(self, path: Path) -> None:
        """Remove an entry, or a part that nobody downloads just now. Links to an entry stay at their targets."""
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            if path.suffix == _PART:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def _part_of(entry: Path) -> Path:
    return entry.with_name(entry.name + _PART)


def _is_still_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _link(entry: Path, target: Path) -> bool:
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


def _size_bytes(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _last_used(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0
