"""Whole downloads: attempts until the bytes have arrived and are verified, then the final name."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import structlog

from coreimage.errors import CoreimageError, InfrastructureError, UsageError
from coreimage.host.disk_space import write_error
from coreimage.http.connection import open_rest
from coreimage.http.partial import FREE_TARGET_SPACE, Expected, MismatchError, PartialDownload
from coreimage.http.progress import NoProgress, Progress
from coreimage.http.retry import ATTEMPTS, BACKOFF_S, RetryError, pause_s
from coreimage.http.watch import watched_session

log = structlog.get_logger("coreimage.http")

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0
TOTAL_S = 6 * 3600.0
TOTAL_VARIABLE = "COREIMAGE_DOWNLOAD_S"


class CancelledError(CoreimageError):
    """The download was cancelled, see `Downloader`."""


class Fetch(Protocol):
    """A function that downloads `url` (http, https or file) to `path`; see `Downloader.__call__` for the arguments."""

    def __call__(
        self,
        url: str,
        path: Path,
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        limit_bytes: int | None = None,
    ) -> Path: ...


class Downloader:
    """A `Fetch` over one HTTP session."""

    def __init__(
        self,
        progress: Progress | None = None,
        *,
        attempts: int = ATTEMPTS,
        backoff_s: float = BACKOFF_S,
        timeout_s: tuple[float, float] = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
        total_s: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Create a downloader.

        Args:
            backoff_s: The first pause between attempts, which doubles with each.
            timeout_s: For connecting, and for the answer and each 64 KiB of it: a server must send about 1 kB/s.
            total_s: For a whole file, with all attempts; by default COREIMAGE_DOWNLOAD_S, or six hours.
            cancelled: Once it is set, downloads and pauses end with `CancelledError`.
        """
        self._session = watched_session()
        self._total_s = _total_s() if total_s is None else total_s
        self._progress: Progress = progress or NoProgress()
        self._attempts, self._backoff_s, self._timeout_s = attempts, backoff_s, timeout_s
        self._cancelled = cancelled or threading.Event()

    def __call__(
        self,
        url: str,
        path: Path,
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        limit_bytes: int | None = None,
    ) -> Path:
        """Download `url` to `path`, which appears whole and verified, or not at all; return `path`.

        A download that breaks is resumed where it stopped, within this call.

        Args:
            limit_bytes: The most that is accepted where the size is not known.

        Raises:
            VerificationError: The size or the digest was wrong twice, or there is more than `limit_bytes`.
            NotFoundError: The server answered 404 or 410, or there is no such file.
            UsageError: The server refused otherwise, or the URL cannot be downloaded.
            HostError: `path` cannot be written.
            InfrastructureError: Every attempt failed.
        """
        with _temporary(path) as (file, temporary):
            self._download(Expected(url, sha256, size_bytes, limit_bytes), PartialDownload(file))
            file.close()
            temporary.replace(path)
        return path

    def complete(self, url: str, file: BinaryIO, *, sha256: str, size_bytes: int) -> None:
        """Make `file` the whole of `url`, resuming from what it holds. Raises the errors of `__call__`.

        Args:
            file: Open for reading and writing. Its content is right only when this returns.
        """
        partial = PartialDownload(file, digest_decides=True)
        partial.resume(size_bytes)
        if partial.size_bytes != size_bytes or partial.sha256 != sha256:
            if partial.size_bytes == size_bytes:
                partial.restart()
            self._download(Expected(url, sha256, size_bytes), partial)

    def _download(self, expected: Expected, partial: PartialDownload) -> None:
        """Complete `partial` and check it; start once again when the bytes are wrong."""
        try:
            try:
                self._complete(expected, partial)
            except MismatchError as error:
                log.warning("downloading again", url=expected.url, reason=error.problem)
                partial.restart()
                self._complete(expected, partial)
        finally:
            if partial.on_bytes:
                self._progress.finish(expected.name)

    def _complete(self, expected: Expected, partial: PartialDownload) -> None:
        end_s = time.monotonic() + self._total_s
        for attempt in range(1, self._attempts + 1):
            try:
                self._receive(expected, partial, end_s)
            except RetryError as error:
                if time.monotonic() >= end_s:
                    raise InfrastructureError(
                        f"did not arrive in {self._total_s:g} s: {error}",
                        where=expected.url,
                        resolution=f"check the network and the server, or allow more seconds in {TOTAL_VARIABLE}",
                    ) from error
                if attempt == self._attempts:
                    raise InfrastructureError(
                        f"gave up after {attempt} attempts: {error}",
                        where=expected.url,
                        resolution="check the network and the server, then run again",
                    ) from error
                log.info("trying again", url=expected.url, reason=str(error), attempt=attempt)
                pause = pause_s(attempt, error.retry_after_s, backoff_s=self._backoff_s)
                self._cancelled.wait(min(pause, end_s - time.monotonic()))
            else:
                expected.check(partial)
                return

    def _receive(self, expected: Expected, partial: PartialDownload, end_s: float) -> None:
        with open_rest(self._session, expected.url, partial, self._timeout_s, end_s) as (chunks, size_bytes):
            expected.check_size_so_far(size_bytes)
            if not partial.on_bytes:
                partial.on_bytes = self._progress.start(expected.name, expected.size_bytes or size_bytes)
                partial.on_bytes(partial.size_bytes)
            for chunk in chunks:
                if self._cancelled.is_set():
                    raise CancelledError("the download was cancelled", where=expected.url)
                expected.check_size_so_far(partial.size_bytes + len(chunk))
                partial.append(chunk)


def _total_s() -> float:
    text = os.environ.get(TOTAL_VARIABLE, "")
    if text and not (text.isascii() and text.isdecimal()):
        raise UsageError("is no number of seconds", where=f"{TOTAL_VARIABLE}={text}", resolution="set whole seconds")
    return float(text or TOTAL_S)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise write_error(error, str(path), resolution=FREE_TARGET_SPACE) from error
    temporary = Path(name)
    try:
        os.fchmod(handle, 0o644)
        os.close(handle)
        with temporary.open("wb") as file:  # by its name, which errors tell
            yield file, temporary
    except OSError as error:
        raise write_error(error, str(path), resolution=FREE_TARGET_SPACE) from error
    finally:
        temporary.unlink(missing_ok=True)
