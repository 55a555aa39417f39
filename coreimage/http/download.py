"""Whole downloads: attempts until the bytes are there and right, then the final name; several at a time."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import requests
import structlog

from coreimage.errors import CoreimageError, InfrastructureError
from coreimage.http.connection import opened
from coreimage.http.progress import NoProgress, Progress
from coreimage.http.retry import ATTEMPTS, BACKOFF_S, AgainError, pause_s
from coreimage.http.transfer import MismatchError, Partial, Wanted, disk_error

log = structlog.get_logger("coreimage.http")

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0


class Fetch(Protocol):
    """Downloads `url` (http, https or file) to `path`. See `Downloader.__call__` for the arguments."""

    def __call__(
        self,
        url: str,
        path: Path,
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        limit_bytes: int | None = None,
    ) -> Path: ...


@dataclass(frozen=True)
class Download:
    """One item of `Downloader.fetch_all`; the fields are the arguments of `Fetch`."""

    url: str
    path: Path
    sha256: str | None = None
    size_bytes: int | None = None
    limit_bytes: int | None = None


class Downloader:
    """A `Fetch` over one HTTP session. `cancelled`, once set, ends downloads and pauses with `Cancelled`."""

    def __init__(
        self,
        session: requests.Session | None = None,
        progress: Progress | None = None,
        *,
        attempts: int = ATTEMPTS,
        backoff_s: float = BACKOFF_S,
        timeout_s: tuple[float, float] = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
        cancelled: threading.Event | None = None,
    ) -> None:
        self._session = session or requests.Session()
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
        """Downloads `url` to `path`, which appears whole, verified, or not at all.

        A cut download goes on where it stopped, within this call. Raises VerificationError when size or digest are
        wrong twice, or when there is more than `limit_bytes`; NotFoundError for 404 and 410; UsageError for
        another refusal or a bad URL; HostError when the disk is full; InfrastructureError when attempts run out.
        """
        with _temporary(path) as (file, temporary):
            self._verified(Wanted(url, sha256, size_bytes, limit_bytes), Partial(file))
            file.close()
            temporary.replace(path)
        return path

    def complete(self, url: str, file: BinaryIO, *, sha256: str, size_bytes: int) -> None:
        """Makes `file` (open for reading and writing) the whole of `url`, going on with what it holds already.

        The file's size is right only when this returns. Raises as `__call__` does.
        """
        partial = Partial(file, digest_decides=True)
        partial.take_up(size_bytes)
        if partial.size_bytes != size_bytes or partial.sha256 != sha256:
            if partial.size_bytes == size_bytes:
                partial.restart()
            self._verified(Wanted(url, sha256, size_bytes), partial)

    def read(self, url: str, limit_bytes: int) -> bytes:
        """The bytes of a small document, never more than `limit_bytes`. Raises as `__call__` does."""
        buffer = io.BytesIO()
        self._verified(Wanted(url, limit_bytes=limit_bytes), Partial(buffer))
        return buffer.getvalue()

    def fetch_all(self, items: Iterable[Download], workers: int = 4) -> list[Path]:
        """Downloads several files at a time; gives their paths in order.

        The first error ends the others, which leave nothing behind, and is raised. Context variables of the caller
        (a flow run's logging, say) are seen by the threads.
        """
        cancelled = threading.Event()
        one = Downloader(
            self._session,
            self._progress,
            attempts=self._attempts,
            backoff_s=self._backoff_s,
            timeout_s=self._timeout_s,
            cancelled=cancelled,
        )
        with ThreadPoolExecutor(workers, thread_name_prefix="download") as pool:
            try:
                futures = [pool.submit(copy_context().run, one._item, item) for item in items]
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                return [future.result() for future in futures]
            finally:
                cancelled.set()
                pool.shutdown(cancel_futures=True)

    def _item(self, item: Download) -> Path:
        return self(item.url, item.path, sha256=item.sha256, size_bytes=item.size_bytes, limit_bytes=item.limit_bytes)

    def _verified(self, wanted: Wanted, partial: Partial) -> None:
        try:
            try:
                self._complete(wanted, partial)
            except MismatchError as error:
                log.warning("downloading again", url=wanted.url, reason=error.problem)
                partial.restart()
                self._complete(wanted, partial)
        finally:
            if partial.shown:
                self._progress.finish(wanted.name)

    def _complete(self, wanted: Wanted, partial: Partial) -> None:
        for attempt in range(1, self._attempts + 1):
            try:
                self._once(wanted, partial)
            except AgainError as again:
                if attempt == self._attempts:
                    raise InfrastructureError(
                        f"gave up after {attempt} attempts: {again}",
                        where=wanted.url,
                        resolution="check the network and the server, then run again",
                    ) from again
                log.info("trying again", url=wanted.url, reason=str(again), attempt=attempt)
                self._cancelled.wait(pause_s(attempt, again.retry_after_s, backoff_s=self._backoff_s))
            else:
                wanted.check(partial)
                return

    def _once(self, wanted: Wanted, partial: Partial) -> None:
        with opened(self._session, wanted.url, partial, self._timeout_s) as (chunks, size_bytes):
            wanted.check_size(size_bytes)
            if not partial.shown:
                partial.shown = self._progress.start(wanted.name, wanted.size_bytes or size_bytes)
                partial.shown(partial.size_bytes)
            for chunk in chunks:
                if self._cancelled.is_set():
                    raise Cancelled("the download was cancelled", where=wanted.url)
                wanted.check_size(partial.size_bytes + len(chunk))
                partial.write(chunk)


class Cancelled(CoreimageError):  # noqa: N818
    """Another download of the same `fetch_all` failed first."""


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    temporary = Path(name)
    try:
        os.fchmod(handle, 0o644)
        os.close(handle)
        with temporary.open("wb") as file:  # by its name, which errors tell
            yield file, temporary
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
