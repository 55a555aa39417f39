"""`coreimage serve`: the parts of the store that others may read, over HTTP."""

from __future__ import annotations

import html
import mimetypes
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import click

from coreimage.cli.settings import Settings
from coreimage.errors import CoreimageError, HostError

if TYPE_CHECKING:
    from coreimage.storage import ObjectInfo, Store

WEB_ROOTS = ("system-image/", "cdimage/", "images/", "oem/")
"""All else in the store is the pipeline's own."""
_DEFAULT_ROOT = "system-image/"


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 is all.")
@click.pass_obj
def serve(settings: Settings, port: int, host: str) -> None:
    """Serve the store over HTTP until Ctrl-C: channels at /, builds at /cdimage/, images at /images/.

    \b
    Example:
      coreimage serve --port 8080
      coreimage channel list --server http://127.0.0.1:8080 --keyring archive-master.tar.xz
    """
    from coreimage.storage import open_store  # noqa: PLC0415

    try:
        server = make_server(open_store(settings.store_url), host, port, quiet=settings.quiet)
    except (OSError, OverflowError) as error:
        raise HostError(f"cannot listen: {error}", where=f"{host}:{port}", resolution="try --port 0") from error
    with server:
        click.echo(f"serving {settings.store_url} at http://{host}:{server.server_address[1]}/", err=settings.as_json)
        server.serve_forever(poll_interval=0.1)


def make_server(store: Store, host: str, port: int, *, quiet: bool) -> ThreadingHTTPServer:
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
            if not quiet:
                click.echo(f"{self.address_string()} {format % words}", err=True)

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


def _answer(handler: BaseHTTPRequestHandler, store: Store) -> None:
    key = key_of(handler.path)
    if not key or key.endswith("/"):
        _send_page(handler, key, store)
        return
    found = store.head(key)
    if found is None:
        handler.send_error(404)
    elif f'"{found.etag}"' in handler.headers.get("If-None-Match", ""):
        handler.send_response(304)
        handler.end_headers()
    else:
        _send_object(handler, found, store)


def key_of(path: str) -> str:
    """The store's key of a URL's path; what names no other web root is below the channels' own."""
    wanted = unquote(urlsplit(path).path).lstrip("/")
    return wanted if not wanted or wanted.startswith(WEB_ROOTS) else _DEFAULT_ROOT + wanted


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
    etag, size_bytes = f'"{found.etag}"', found.size_bytes
    fresh = handler.headers.get("If-Range", etag) == etag
    part = byte_range(handler.headers.get("Range", ""), size_bytes) if fresh else None
    if part == (0, 0):
        handler.send_response(416)
        _end_head(handler, 0, {"Content-Range": f"bytes */{size_bytes}"})
        return
    start, stop = part or (0, size_bytes)
    media_type = mimetypes.guess_type(found.key)[0] or "application/octet-stream"
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": media_type}
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
    handler.send_response(206 if part else 200)
    _end_head(handler, stop - start, headers)
    if handler.command != "HEAD":
        with store.open(found.key, start=start, stop=stop) as source:
            shutil.copyfileobj(source, handler.wfile)


def _send_page(handler: BaseHTTPRequestHandler, prefix: str, store: Store) -> None:
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
