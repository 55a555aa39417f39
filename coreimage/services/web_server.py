"""The public parts of a store over HTTP: GET and HEAD, ranges, strong ETags, and a page or a listing for each folder.

Starlette answers and uvicorn listens. Access control, TLS and caching belong to the proxy in front (docs/serving.md).
"""

from __future__ import annotations

import asyncio
import html
import mimetypes
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from uvicorn.protocols.http.h11_impl import H11Protocol

from coreimage import logs
from coreimage.errors import CoreimageError, HostError, NotFoundError, VerificationError
from coreimage.storage import Store

WEB_ROOTS = ("system-image/", "cdimage/", "images/", "oem/")
"""The prefixes of the store that are public; everything else belongs to the pipeline."""
IDLE_LIMIT_S = 60
"""How long a connection may wait for a client that neither sends a request nor reads its answer."""
_DEFAULT_ROOT = "system-image/"
_PAGE = "index.html"
_TEXT_SUFFIXES = {".manifest", ".filelist", ".log", ".gpg", ".asc", ".ini"}
_CHUNK_BYTES = 256 << 10
_MAX_DIGITS = 19
_CONDITIONS = StaticFiles()
"""Starlette's answer to `If-None-Match`; nothing is served from its folders, for it has none."""
_GRACE_S = 1
"""How long downloads may go on after the server has been told to end."""


@dataclass(frozen=True)
class RunningServer:
    """A server that listens on `port` from a thread of its own."""

    port: int
    thread: threading.Thread


@contextmanager
def serving(store: Store, host: str, port: int, *, idle_limit_s: int = IDLE_LIMIT_S) -> Iterator[RunningServer]:
    """Serve a store from a thread of its own for as long as the block lasts.

    Args:
        store: The store whose public parts are served.
        host: The address to listen on; `0.0.0.0` is every address of the machine.
        port: The TCP port; 0 takes a free one, which the yielded value names.
        idle_limit_s: Seconds after which a connection is cut whose client neither asks nor reads.

    Raises:
        HostError: The address cannot be listened on.
    """
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise HostError(
            f"cannot listen: {error.strerror}",
            where=f"{host}:{port}",
            resolution="try --port 0, or an address of this machine with --host",
        ) from error
    with listener:
        config = uvicorn.Config(
            web_app(store),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=idle_limit_s,
            timeout_graceful_shutdown=_GRACE_S,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="web server", daemon=True)
        thread.start()
        try:
            yield RunningServer(listener.getsockname()[1], thread)
        finally:
            server.should_exit = True
            thread.join()


class _Connection(H11Protocol):
    """A connection that is cut when its client neither asks nor reads for `timeout_keep_alive` seconds.

    uvicorn itself limits only the time between two requests: a client that never finishes its first request, or stops
    reading an answer, would hold its connection for ever.
    """

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_limit()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_limit()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._start_limit()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_limit()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle.response_complete:
            self._start_limit()
        else:
            self._end_limit()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_limit()
        super().connection_lost(exc)

    def _start_limit(self) -> None:
        self._end_limit()
        self._limit = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def _end_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()


def web_app(store: Store) -> Starlette:
    """Return the ASGI application that answers for a store."""

    def answer(request: Request) -> Response:
        response = _answer(store, key_of(request.scope["path"]), request)
        _log(request, response)
        return response

    def refuse(request: Request, error: Exception) -> Response:
        is_absent = isinstance(error, NotFoundError | VerificationError)
        problem = error.problem if isinstance(error, CoreimageError) else ""
        response = PlainTextResponse(f"{problem}\n", 404 if is_absent else 503)
        _log(request, response)
        return response

    return Starlette(routes=[Route("/{path:path}", answer)], exception_handlers={CoreimageError: refuse})


def key_of(path: str) -> str:
    """Return the key of a decoded URL path: outside of the other web roots, it is below that of the channels."""
    key = path.lstrip("/")
    return key if key in {"", _PAGE} or key.startswith(WEB_ROOTS) else _DEFAULT_ROOT + key


def byte_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """Parse a `Range` header (RFC 9110 §14.1.2).

    Returns:
        Start and end (excluded) of the one range that it asks for; (0, 0) when the object ends before it. None means
        the whole object: for no range, for several, and for what is malformed, as the RFC allows.
    """
    first, dash, last = header.removeprefix("bytes=").strip().partition("-")
    wellformed = (first.isdecimal() or not first) and (last.isdecimal() or not last) and (first or last)
    if not header.startswith("bytes=") or not dash or not wellformed:
        return None
    if not first:
        start, stop = max(0, size_bytes - _position(last)), size_bytes
    else:
        start, stop = _position(first), min(_position(last or str(size_bytes)) + 1, size_bytes)
    return (start, stop) if start < stop else (0, 0)


def _position(digits: str) -> int:
    """Return a position in an object; one beyond all objects for what has more digits than any size."""
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def media_type(key: str) -> str:
    """Return the media type that lets browsers show text and download everything else."""
    if PurePosixPath(key).suffix in _TEXT_SUFFIXES or key.endswith("SHA256SUMS"):
        return "text/plain; charset=utf-8"
    guessed, packed = mimetypes.guess_type(key)
    return guessed if guessed and not packed else "application/octet-stream"


def _answer(store: Store, key: str, request: Request) -> Response:
    is_folder = not key or key.endswith("/")
    info = store.head(f"{key}{_PAGE}" if is_folder else key)
    if info is None:
        return _listing(store, key) if is_folder else _not_found()
    etag, size_bytes = '"' + info.etag.strip('"') + '"', info.size_bytes
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": media_type(info.key)}
    if _CONDITIONS.is_not_modified(Headers(headers), request.headers):
        return NotModifiedResponse(Headers(headers))
    unchanged = request.headers.get("If-Range", etag) == etag
    part = byte_range(request.headers.get("Range", ""), size_bytes) if unchanged else None
    if part == (0, 0):
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size_bytes}"})
    start, stop = part or (0, size_bytes)
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    # Opened before the status is sent: an object that was deleted meanwhile is a 404 and no broken download.
    opened = ExitStack()
    source = opened.enter_context(store.open(info.key, start=start, stop=stop))
    return StreamingResponse(_chunks(source, opened), status, headers)


async def _chunks(source: BinaryIO, opened: ExitStack) -> AsyncIterator[bytes]:
    with opened:
        while chunk := await run_in_threadpool(source.read, _CHUNK_BYTES):
            yield chunk


def _listing(store: Store, prefix: str) -> Response:
    names = sorted(set(_children(store, prefix))) if prefix else list(WEB_ROOTS)
    if not names:
        return _not_found()
    links = "".join(f'<li><a href="/{quote(prefix + name)}">{html.escape(name)}</a></li>\n' for name in names)
    return HTMLResponse(f"<!doctype html>\n<title>/{html.escape(prefix)}</title>\n<ul>\n{links}</ul>\n")


def _children(store: Store, prefix: str) -> Iterator[str]:
    for info in store.list(prefix):
        name, slash, _ = info.key.removeprefix(prefix).partition("/")
        yield name + slash


def _not_found() -> Response:
    return PlainTextResponse("not found\n", 404)


def _log(request: Request, response: Response) -> None:
    client = request.client.host if request.client else "?"
    # The raw path is still percent-encoded: it has no control characters.
    path = request.scope["raw_path"].decode("ascii")
    logs.story.info(f'{client} "{request.method} {path}" {response.status_code}')
