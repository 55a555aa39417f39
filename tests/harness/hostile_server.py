"""A server that lies, stalls and floods, byte by byte: what it does follows from a seed.

It has the files of a folder, and answers for one of them, or for all, as `hostile_answer` says.
"""

from __future__ import annotations

import gzip
import random
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Answer = Iterator[bytes | float]
"""Bytes to send, and seconds to wait before the next."""

_DRIP_S = 0.05
_FLOOD_PIECES = 4000
_PIECE = b"x" * 65536


@contextmanager
def hostile_server(answer: Callable[[str], Answer | None], folder: Path | None = None) -> Iterator[str]:
    """Answers a path with the file of `folder` where `answer` gives None, until the block is left.

    Yields the URL.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, ValueError):
                path = self.rfile.readline(65536).split()[1].decode()
                while self.rfile.readline(65536).strip():
                    pass
                for step in answer(path) or _plain(folder, path):
                    if isinstance(step, float):
                        if stopped.wait(step):
                            return
                    else:
                        self.wfile.write(step)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        block_on_close = False
        request_queue_size = 64

    stopped = threading.Event()
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            stopped.set()
            server.shutdown()


def _plain(folder: Path | None, path: str) -> Answer:
    file = folder / path.lstrip("/") if folder else None
    if file is None or not file.is_file():
        yield b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        return
    content = file.read_bytes()
    yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(content)
    yield content


def hostile_answer(seed: int, content: bytes = b"content") -> Answer:
    """What a server that means harm sends for a file: a status line, headers and a body, each of which may be wrong."""
    draw = random.Random(seed)  # noqa: S311
    kind = draw.choice([_interim, _dripped_head, _garbage, *[_whole] * 12])
    return kind(draw, content)


def _whole(draw: random.Random, content: bytes) -> Answer:
    head = b"\r\n".join([_status(draw), *(_header(draw, content) for _ in range(draw.randrange(5)))]) + b"\r\n\r\n"
    yield _spoiled(draw, head) if draw.random() < 0.2 else head
    yield from draw.choice(_BODIES)(draw, content)


def _status(draw: random.Random) -> bytes:
    status = draw.choice([*[200] * 20, 206, 206, 301, 302, 303, 307, 308, 304, 401, 404, 416, 429, 500, 503, 99, 1000])
    reason = draw.choice([b"OK", b"", b"\x1b]0;owned\x07\x1b[2J", b"\xff" * 20, b"x" * 5000])
    return b"%s %d %s" % (draw.choice([*[b"HTTP/1.1"] * 20, b"HTTP/1.0", b"HTTP/9.9"]), status, reason)


def _header(draw: random.Random, content: bytes) -> bytes:
    length = len(content)
    name, values = draw.choice(
        [
            (b"Content-Length", [b"abc", b"-1", b"9" * 5000, b"%d, %d" % (length, length + 1), b"1e9", b"%d" % length]),
            (b"Content-Length", [b"%d" % (length + 100), b"%d" % max(0, length - 1), b"\xb2", b""]),
            (b"Location", [b"http://[::1", b"file:///etc/passwd", b"gopher://x/", b"//", b"/again", b"http://:0/"]),
            (b"Location", [b"\x1b[2J", b"http://127.0.0.1:99999/", b"http://" + b"a" * 300 + b"/", b"\xff\xfe"]),
            (b"Retry-After", [b"9" * 400, b"Fri, 31 Dec 99999 23:59:59 GMT", b"-5", b"\x00", b"0"]),
            (b"Content-Range", [b"bytes 0-", b"bytes */x", b"bytes " + b"9" * 5000]),
            (b"Transfer-Encoding", [b"chunked", b"gzip, chunked", b"x"]),
            (b"Content-Encoding", [b"gzip", b"br", b"deflate"]),
            (b"ETag", [b'"\xff"', b'"' + b"e" * 60000 + b'"', b'"\x01"']),
            (b"Set-Cookie", [b"a=" + b"b" * 60000]),
            (b"Connection", [b"keep-alive", b"close"]),
            (b"X" * 60000, [b"x"]),
        ]
    )
    return name + b": " + draw.choice(values)


def _spoiled(draw: random.Random, head: bytes) -> bytes:
    changed = bytearray(head)
    for _ in range(draw.randrange(1, 6)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _interim(draw: random.Random, _: bytes) -> Answer:
    while True:
        yield b"HTTP/1.1 100 Continue\r\n\r\n" * draw.randrange(1, 50)
        yield 0.001


def _dripped_head(draw: random.Random, _: bytes) -> Answer:
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"X: %d\r\n"[draw.randrange(6) :]
        yield _DRIP_S


def _garbage(draw: random.Random, _: bytes) -> Answer:
    yield draw.randbytes(draw.randrange(2000))


def _right(_: random.Random, content: bytes) -> Answer:
    yield content


def _short(draw: random.Random, content: bytes) -> Answer:
    yield content[: draw.randrange(len(content) + 1)]


def _nothing(_: random.Random, __: bytes) -> Answer:
    yield 60.0


def _drip(_: random.Random, content: bytes) -> Answer:
    while True:
        yield content[:1] or b"x"
        yield _DRIP_S


def _flood(_: random.Random, __: bytes) -> Answer:
    for _piece in range(_FLOOD_PIECES):
        yield _PIECE


def _chunks(draw: random.Random, content: bytes) -> Answer:
    size = draw.choice([b"%x" % len(content), b"ffffffffffffffffff", b"-1", b"x", b"9" * 4000, b"", b"0x10"])
    yield size + b"\r\n" + content + b"\r\n"
    if draw.random() < 0.5:
        yield b"0\r\n\r\n"


def _chunk_flood(_: random.Random, __: bytes) -> Answer:
    for _piece in range(_FLOOD_PIECES):
        yield b"10000\r\n" + _PIECE + b"\r\n"


def _bomb(_: random.Random, __: bytes) -> Answer:
    yield gzip.compress(bytes(64 << 20))


_BODIES = (_right, _right, _short, _nothing, _drip, _flood, _chunks, _chunk_flood, _bomb)
