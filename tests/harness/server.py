"""A plain static HTTP server over a folder: HEAD, GET, single ranges, strong ETags, If-Range and If-None-Match.

with serve(folder) as server:
    requests.get(server.url + "/file")
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""


@dataclass
class Reply:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


Source = Callable[[Request], Reply]
Send = Callable[[BaseHTTPRequestHandler, Reply], None]


class Server:
    """A running server; `requests` holds all that arrived, in order."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.url = f"http://{address[0]}:{address[1]}"
        self.requests: list[Request] = []
        self.faults: deque[Any] = deque()
        """Of a front server: what happens to the next requests."""


@contextmanager
def serve(folder: Path, host: str = "127.0.0.1") -> Iterator[Server]:
    """Serves `folder` on a free port of `host` until the block is left."""
    with serve_source(folder_source(folder), send, host) as server:
        yield server


@contextmanager
def serve_source(source: Source, sender: Send, host: str = "127.0.0.1") -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            request = Request(self.command, self.path, headers, body)
            server.requests.append(request)
            try:
                sender(self, source(request))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *words: object) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer((host, 0), Handler)
    http.daemon_threads = True
    server = Server((host, http.server_address[1]))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def folder_source(folder: Path) -> Source:
    def answer(request: Request) -> Reply:
        path = (folder / unquote(urlsplit(request.path).path).lstrip("/")).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return Reply(404, body=b"not found\n")
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if etag in request.headers.get("if-none-match", ""):
            return Reply(304, {"ETag": etag})
        return ranged(request, content, {"ETag": etag, "Accept-Ranges": "bytes"})

    return answer


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Reply:
    """The whole of `content`, or the part that a `Range: bytes=A-[B]` wants while `If-Range` still holds."""
    wanted = request.headers.get("range", "")
    if not wanted.startswith("bytes=") or request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        return Reply(200, headers, content)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, stop = int(first), min(int(last or len(content)) + 1, len(content))
    if start >= len(content):
        return Reply(416, {"Content-Range": f"bytes */{len(content)}"})
    return Reply(206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop])


def send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    send_head(handler, reply)
    if handler.command != "HEAD":
        handler.wfile.write(reply.body)


def send_head(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    handler.send_response(reply.status)
    headers = {"Content-Length": str(len(reply.body)), **reply.headers}
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
