"""The only place that downloads: resumable, verified while streaming, with progress.

    fetch = Downloader(progress=progress_for(sys.stderr))
    fetch("https://…/image.xz", Path("image.xz"), sha256="…")

Proxies and certificate bundles are taken from the environment, as requests does (`https_proxy`, `no_proxy`,
`REQUESTS_CA_BUNDLE`).
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO
from urllib.parse import unquote, urlsplit

import requests
import structlog
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, TaskID, TaskProgressColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from coreimage.errors import (
    CoreimageError,
    HostError,
    InfrastructureError,
    NotFoundError,
    UsageError,
    VerificationError,
)

log = structlog.get_logger("coreimage.http")

ATTEMPTS = 5
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0
BACKOFF_S, LONGEST_PAUSE_S = 0.5, 60.0
SHOWN_FROM_BYTES = 2048
"""Smaller downloads show no progress: they are over before anybody could read it."""

_CHUNK_BYTES = 1 << 16
_RETRIED = {429, 500, 502, 503, 504}


class Progress(Protocol):
    """Told of each download: `start` once its size is known (0 when not), `advance` per chunk, `finish` at its end.

    What `start` returns takes the number of new bytes; negative when a download starts again. All of it may be
    called from several threads.
    """

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]: ...

    def finish(self, name: str) -> None: ...


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
            self._verified(_Wanted(url, sha256, size_bytes, limit_bytes), _Partial(file))
            file.close()
            temporary.replace(path)
        return path

    def read(self, url: str, limit_bytes: int) -> bytes:
        """The bytes of a small document, never more than `limit_bytes`. Raises as `__call__` does."""
        buffer = io.BytesIO()
        self._verified(_Wanted(url, limit_bytes=limit_bytes), _Partial(buffer))
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

    def _verified(self, wanted: _Wanted, partial: _Partial) -> None:
        try:
            try:
                self._complete(wanted, partial)
            except _MismatchError as error:
                log.warning("downloading again", url=wanted.url, reason=error.problem)
                partial.restart()
                self._complete(wanted, partial)
        finally:
            if partial.shown:
                self._progress.finish(wanted.name)

    def _complete(self, wanted: _Wanted, partial: _Partial) -> None:
        for attempt in range(1, self._attempts + 1):
            try:
                self._once(wanted, partial)
            except _AgainError as again:
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

    def _once(self, wanted: _Wanted, partial: _Partial) -> None:
        with _opened(self._session, wanted.url, partial, self._timeout_s) as (chunks, size_bytes):
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


class _MismatchError(VerificationError):
    pass


class _AgainError(Exception):
    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class _Wanted:
    url: str
    sha256: str | None = None
    size_bytes: int | None = None
    limit_bytes: int | None = None

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.url).path).rpartition("/")[2] or self.url

    def check_size(self, size_bytes: int) -> None:
        """Refuses as soon as it is known that there is too much."""
        if self.limit_bytes is not None and size_bytes > self.limit_bytes:
            raise VerificationError(
                f"there is more than the {self.limit_bytes} bytes that are accepted here",
                where=self.url,
                resolution="check that the URL names the right file",
            )
        if self.size_bytes is not None and size_bytes > self.size_bytes:
            raise self._mismatch(f"{self.size_bytes} bytes were promised, more came")

    def check(self, partial: _Partial) -> None:
        if self.size_bytes is not None and partial.size_bytes != self.size_bytes:
            raise self._mismatch(f"{self.size_bytes} bytes were promised, {partial.size_bytes} came")
        if self.sha256 is not None and partial.sha256 != self.sha256:
            raise self._mismatch(f"sha256 is {partial.sha256}, not {self.sha256}")

    def _mismatch(self, problem: str) -> _MismatchError:
        return _MismatchError(
            problem, where=self.url, resolution="do not use this file; the server or a cache on the way is wrong"
        )


@dataclass
class _Partial:
    """What has arrived so far, its digest kept up to date."""

    file: BinaryIO
    size_bytes: int = 0
    validator: str = ""
    """A strong ETag of what has arrived: only with one can the rest be asked for safely."""
    shown: Callable[[int], None] | None = None
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        try:
            self.file.write(chunk)
        except OSError as error:
            raise _disk_error(error, Path(str(self.file.name))) from error
        self._digest.update(chunk)
        self._moved(len(chunk))

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self._digest = hashlib.sha256()
        self.validator = ""
        self._moved(-self.size_bytes)

    def _moved(self, by_bytes: int) -> None:
        self.size_bytes += by_bytes
        if self.shown:
            self.shown(by_bytes)

    def request_headers(self) -> dict[str, str]:
        # Compressed transfers would make sizes, ranges and digests those of something else.
        headers = {"Accept-Encoding": "identity"}
        if self.size_bytes and self.validator:
            headers |= {"Range": f"bytes={self.size_bytes}-", "If-Range": self.validator}
        return headers


@contextmanager
def _opened(
    session: requests.Session, url: str, partial: _Partial, timeout_s: tuple[float, float]
) -> Iterator[tuple[Iterable[bytes], int]]:
    """The chunks that are still missing, and the size of the whole (0 when unknown)."""
    if urlsplit(url).scheme == "file":
        with _local(url) as file:
            partial.restart()
            yield iter(lambda: file.read(_CHUNK_BYTES), b""), os.fstat(file.fileno()).st_size
        return
    with (
        _network(url),
        session.get(url, headers=partial.request_headers(), stream=True, timeout=timeout_s) as response,
    ):
        _check_status(response, url, partial)
        _align(response, partial)
        rest_bytes = int(response.headers.get("Content-Length", 0))
        yield (
            response.raw.stream(_CHUNK_BYTES, decode_content=False),
            partial.size_bytes + rest_bytes if rest_bytes else 0,
        )


@contextmanager
def _local(url: str) -> Iterator[BinaryIO]:
    path = Path(unquote(urlsplit(url).path))
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("there is no such file", where=url) from error
    except OSError as error:
        raise HostError(f"cannot read: {error.strerror}", where=url) from error
    with file:
        yield file


@contextmanager
def _network(url: str) -> Iterator[None]:
    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
        raise UsageError("not a URL that can be downloaded", where=url, resolution="use http, https or file") from None
    except requests.TooManyRedirects as error:
        raise InfrastructureError("the server redirects in circles", where=url) from error
    except (requests.RequestException, HTTPError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise VerificationError(
                "the server's certificate was refused",
                where=url,
                resolution="check the host's clock and ca-certificates; name a private CA in REQUESTS_CA_BUNDLE",
            ) from error
        raise _AgainError(str(error)) from error


def _check_status(response: requests.Response, url: str, partial: _Partial) -> None:
    status = response.status_code
    if status in {200, 206}:
        return
    said = f"the server answered {status} {response.reason}"
    if status in {404, 410}:
        raise NotFoundError(said, where=url, resolution="check the URL")
    if status == 416 and partial.size_bytes:  # noqa: PLR2004
        partial.restart()
        raise _AgainError(said)
    if status in _RETRIED:
        raise _AgainError(said, retry_after_s(response.headers.get("Retry-After")))
    raise UsageError(said, where=url, resolution="check the URL, and whether it needs credentials")


def _align(response: requests.Response, partial: _Partial) -> None:
    """Makes what has arrived and what is coming meet, or starts again."""
    if response.status_code == 206:  # noqa: PLR2004
        if not response.headers.get("Content-Range", "").startswith(f"bytes {partial.size_bytes}-"):
            partial.restart()
            raise _AgainError("the server sent another range than the one asked for")
    else:
        partial.restart()
    etag = response.headers.get("ETag", "")
    partial.validator = etag if etag.startswith('"') else ""


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header (RFC 9110 §10.2.3, seconds or a date) asks for; None when it says nothing."""
    try:
        return float(Retry().parse_retry_after(header)) if header else None
    except InvalidHeader:
        return None


def pause_s(attempt: int, asked_s: float | None, *, backoff_s: float = BACKOFF_S) -> float:
    """How long to wait after the `attempt`-th failure (from 1): what the server asked for, else doubling with jitter.

    Never longer than LONGEST_PAUSE_S.
    """
    own_s = backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311
    return min(LONGEST_PAUSE_S, own_s if asked_s is None else max(0.0, asked_s))


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _disk_error(error, path) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)
            yield file, temporary
    except OSError as error:
        raise _disk_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _disk_error(error: OSError, path: Path) -> HostError:
    return HostError(f"cannot write: {error.strerror}", where=str(path), resolution="free some space and run again")


class NoProgress:
    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        return lambda _: None

    def finish(self, name: str) -> None:
        """Says nothing."""


def progress_for(stream: TextIO) -> Progress:
    """Bars when `stream` is a terminal, else one plain line per finished download."""
    return BarProgress(Console(file=stream)) if stream.isatty() else LineProgress(stream)


class BarProgress:
    """One bar per running download; all are drawn by one display, so that they never overwrite each other."""

    def __init__(self, console: Console) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, list[TaskID | None]] = {}
        self._display = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TaskProgressColumn(),
            TransferSpeedColumn(),
            console=console,
        )

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        with self._lock:
            if 0 < size_bytes < SHOWN_FROM_BYTES:
                self._tasks.setdefault(name, []).append(None)
                return lambda _: None
            self._display.start()
            task = self._display.add_task(name, total=size_bytes or None)
            self._tasks.setdefault(name, []).append(task)
        return lambda by_bytes: self._display.advance(task, by_bytes)

    def finish(self, name: str) -> None:
        with self._lock:
            task = self._tasks[name].pop(0)
            if task is not None:
                self._display.stop_task(task)
            if not any(self._tasks.values()):
                self._display.stop()
                # What was drawn stays; the next display must not draw it once more.
                for done in self._display.task_ids:
                    self._display.remove_task(done)


@dataclass
class _Line:
    size_bytes: int
    started_s: float
    arrived_bytes: int = 0


class LineProgress:
    """`name: 12.3 MB, 4.5 MB/s` for each download that ended whole."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.Lock()
        self._lines: dict[str, list[_Line]] = {}

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]:
        line = _Line(size_bytes, self._clock())
        with self._lock:
            self._lines.setdefault(name, []).append(line)

        def advance(by_bytes: int) -> None:
            line.arrived_bytes += by_bytes

        return advance

    def finish(self, name: str) -> None:
        with self._lock:
            line = self._lines[name].pop(0)
            if line.arrived_bytes >= max(line.size_bytes, SHOWN_FROM_BYTES):
                speed = line.arrived_bytes / max(self._clock() - line.started_s, 0.001)
                print(f"{name}: {decimal(line.arrived_bytes)}, {decimal(int(speed))}/s", file=self._stream, flush=True)
