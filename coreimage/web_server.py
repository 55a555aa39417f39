"""The parts of a store that others may read, over HTTP: GET and HEAD, ranges, strong ETags, and
for a folder its page, else a listing."""

from __future__ import annotations

import html
import mimetypes
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from coreimage import logs
from coreimage.errors import CoreimageError
from coreimage.storage import ObjectInfo, Store

WEB_ROOTS = ("system-image/", "cdimage/", "images/", "oem/")
"""All else in the store is the pipeline's own."""
_DEFAULT_ROOT = "system-image/"
_PAGE = "index.html"
"""What a folder shows, where it has one; at the very top too."""
_TEXTS = {".manifest", ".filelist", ".log", ".gpg", ".asc", ".ini"}


def make_server(store: Store, host: str, port: int) -> ThreadingHTTPServer:
    """Answers once `serve_forever` runs. Raises OSError when it may not listen there."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            try:
                _answer(self, store)
            except CoreimageError as error:
                self.send_error(404, explain=str(error.problem))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *words: object) -> None:  # noqa: A002
            logs.story.info(f"{self.address_string()} {format % words}")

    return _Server((host, port), Handler)


class _Server(ThreadingHTTPServer):
    """A thread for each connection, and room for a crowd that arrives at once."""

    daemon_threads = True
    request_queue_size = 256


def _answer(handler: BaseHTTPRequestHandler, store: Store) -> None:
    key = key_of(handler.path)
    found = store.head(f"{key}{_PAGE}" if key.endswith("/") or not key else key)
    if found is None and (not key or key.endswith("/")):
        _send_listing(handler, key, store)
        return
    if found is None:
        handler.send_error(404)
    elif _is_held(found, handler.headers.get("If-None-Match", "")):
        handler.send_response(304)
        handler.end_headers()
    else:
        _send_object(handler, found, store)


def key_of(path: str) -> str:
    """The store's key of a URL's path; what names no other web root is below the channels' own."""
    wanted = unquote(urlsplit(path).path).lstrip("/")
    return wanted if wanted in ("", _PAGE) or wanted.startswith(WEB_ROOTS) else _DEFAULT_ROOT + wanted


def byte_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """Start and end (excluded) that `Range` asks for (RFC 9110 §14.1.2); None for the whole, (0, 0) for none of it.

    More than one range, or what is not understood, is the whole, as the RFC allows.
    """
    first, dash, last = header.removeprefix("bytes=").strip().partition("-")
    wellformed = (first.isdecimal() or not first) and (last.isdecimal() or not last) and (first or last)
    if not header.startswith("bytes=") or not dash or not wellformed:
        return None
    if not first:
        return max(0, size_bytes - int(last)), size_bytes
    start, stop = int(first), min(int(last or size_bytes) + 1, size_bytes)
    return (start, stop) if start < stop else (0, 0)


def _send_object(handler: BaseHTTPRequestHandler, found: ObjectInfo, store: Store) -> None:
    etag, size_bytes = _etag(found), found.size_bytes
    fresh = handler.headers.get("If-Range", etag) == etag
    part = byte_range(handler.headers.get("Range", ""), size_bytes) if fresh else None
    if part == (0, 0):
        handler.send_response(416)
        _end_head(handler, 0, {"Content-Range": f"bytes */{size_bytes}"})
        return
    start, stop = part or (0, size_bytes)
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": media_type(found.key)}
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
    handler.send_response(206 if part else 200)
    _end_head(handler, stop - start, headers)
    if handler.command != "HEAD":
        with store.open(found.key, start=start, stop=stop) as source:
            shutil.copyfileobj(source, handler.wfile)


def media_type(key: str) -> str:
    """As browsers want it: what is text is shown, everything else is downloaded."""
    if PurePosixPath(key).suffix in _TEXTS or key.endswith("SHA256SUMS"):
        return "text/plain; charset=utf-8"
    guessed, packed = mimetypes.guess_type(key)
    return guessed if guessed and not packed else "application/octet-stream"


def _is_held(found: ObjectInfo, if_none_match: str) -> bool:
    """Whether the client has it (RFC 9110 §13.1.2: `*`, or a list of tags that are compared weakly)."""
    held = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return _etag(found) in held or held == ["*"]


def _etag(found: ObjectInfo) -> str:
    return '"' + found.etag.strip('"') + '"'


def _send_listing(handler: BaseHTTPRequestHandler, prefix: str, store: Store) -> None:
    names = sorted(set(_children(prefix, store))) if prefix else list(WEB_ROOTS)
    if not names:
        handler.send_error(404)
        return
    links = "".join(f'<li><a href="/{quote(prefix + name)}">{html.escape(name)}</a></li>\n' for name in names)
    page = f"<!doctype html>\n<title>/{html.escape(prefix)}</title>\n<ul>\n{links}</ul>\n".encode()
    handler.send_response(200)
    _end_head(handler, len(page), {"Content-Type": "text/html; charset=utf-8"})
    if handler.command != "HEAD":
        handler.wfile.write(page)


def _children(prefix: str, store: Store) -> Iterator[str]:
    for found in store.list(prefix):
        name, slash, _ = found.key.removeprefix(prefix).partition("/")
        yield name + slash


def _end_head(handler: BaseHTTPRequestHandler, size_bytes: int, headers: dict[str, str]) -> None:
    for name, value in {"Content-Length": str(size_bytes), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
