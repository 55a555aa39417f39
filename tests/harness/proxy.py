"""A front server that fails as told: it stands before a folder or another server.

    with faulty(folder, truncate(1000), None, status(503, retry_after="0")) as server: ...

The n-th request meets the n-th fault; `None`, and every request after the last, is answered properly.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from tests.harness.server import Reply, Request, Send, Server, Source, folder_source, send, send_head, serve_source

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class Fault:
    """How one exchange goes wrong: `alter` changes the request before it is answered, `send` spoils the answer."""

    def __init__(self, sender: Send = send, alter: Callable[[Request], Request] = lambda request: request) -> None:
        self.send, self.alter = sender, alter


@contextmanager
def faulty(upstream: Path | str, *faults: Fault | None) -> Iterator[Server]:
    """Stands before `upstream`, a folder or the URL of a server, until the block is left."""
    source = folder_source(upstream) if isinstance(upstream, Path) else server_source(upstream)
    current: dict[int, Fault] = {}

    def answer(request: Request) -> Reply:
        fault = (server.faults.popleft() if server.faults else None) or Fault()
        reply = source(fault.alter(request))
        current[id(reply)] = fault
        return reply

    def spoil(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        current.pop(id(reply)).send(handler, reply)

    with serve_source(answer, spoil) as server:
        server.faults.extend(faults)
        yield server


def reset(after_bytes: int = 0) -> Fault:
    """The connection is reset after so many bytes of the body; 0: before anything is answered."""

    def sender(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if after_bytes:
            send_head(handler, reply)
            handler.wfile.write(reply.body[:after_bytes])
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _hang_up(handler)

    return Fault(sender)


def status(code: int, *, retry_after: str | None = None) -> Fault:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Fault(lambda handler, _: send(handler, Reply(code, headers, b"no\n")))


def truncate(at_bytes: int) -> Fault:
    """The body ends early, though its whole length was announced."""

    def sender(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        send_head(handler, reply)
        handler.wfile.write(reply.body[:at_bytes])
        handler.wfile.flush()
        _hang_up(handler)

    return Fault(sender)


def slow(delay_s: float, chunk_bytes: int = 1 << 10) -> Fault:
    """Waits before every chunk of the body."""

    def sender(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        send_head(handler, reply)
        for start in range(0, len(reply.body), chunk_bytes):
            time.sleep(delay_s)
            handler.wfile.write(reply.body[start : start + chunk_bytes])

    return Fault(sender)


def wrong_bytes(at: int = 0) -> Fault:
    """One byte is not what it was; length and headers are right."""

    def sender(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        body = bytearray(reply.body)
        body[at] ^= 0xFF
        send(handler, replace(reply, body=bytes(body)))

    return Fault(sender)


def wrong_request(at: int = 0) -> Fault:
    """One byte of what the client sends is not what it was."""

    def alter(request: Request) -> Request:
        body = bytearray(request.body)
        if body:
            body[at] ^= 0xFF
        return replace(request, body=bytes(body))

    return Fault(alter=alter)


def ignore_range() -> Fault:
    def alter(request: Request) -> Request:
        return replace(request, headers={k: v for k, v in request.headers.items() if k not in {"range", "if-range"}})

    return Fault(alter=alter)


def wrong_range(shift: int = 1) -> Fault:
    """Answers 206 with another range than the one that was asked for."""

    def sender(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        first, _, rest = reply.headers.get("Content-Range", "bytes 0-").removeprefix("bytes ").partition("-")
        headers = {**reply.headers, "Content-Range": f"bytes {int(first) + shift}-{rest}"}
        send(handler, replace(reply, headers=headers))

    return Fault(sender)


def endless() -> Fault:
    """Sends the body again and again, without a length, until the client goes away."""

    def sender(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        handler.send_response(reply.status)
        handler.send_header("Connection", "close")
        handler.end_headers()
        while True:
            handler.wfile.write(reply.body or b"\0" * 1024)

    return Fault(sender)


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.rfile.close()
    handler.wfile.close()
    handler.connection.close()


def server_source(url: str) -> Source:
    host = urlsplit(url).netloc

    def answer(request: Request) -> Reply:
        connection = HTTPConnection(host, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in {"connection", "expect"}}
            connection.request(request.method, _origin_form(request.path), body=request.body or None, headers=headers)
            response = connection.getresponse()
            dropped = _HOP_BY_HOP - ({"content-length"} if request.method == "HEAD" else set())
            kept = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
            return Reply(response.status, kept, response.read())
        finally:
            connection.close()

    return answer


def _origin_form(path: str) -> str:
    """A client that takes us for its proxy sends a whole URL."""
    parts = urlsplit(path)
    return path if not parts.netloc else parts.path + (f"?{parts.query}" if parts.query else "")
