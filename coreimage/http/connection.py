"""One request: the bytes that are still missing, of a server or of a local file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from coreimage.errors import HostError, InfrastructureError, NotFoundError, UsageError, VerificationError
from coreimage.http.retry import RETRIED_STATUSES, AgainError, retry_after_s
from coreimage.http.transfer import Partial

_CHUNK_BYTES = 1 << 16


@contextmanager
def opened(
    session: requests.Session, url: str, partial: Partial, timeout_s: tuple[float, float]
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
        raise AgainError(str(error)) from error


def _check_status(response: requests.Response, url: str, partial: Partial) -> None:
    status = response.status_code
    if status in {200, 206}:
        return
    said = f"the server answered {status} {response.reason}"
    if status in {404, 410}:
        raise NotFoundError(said, where=url, resolution="check the URL")
    if status == 416 and partial.size_bytes:  # noqa: PLR2004
        partial.restart()
        raise AgainError(said)
    if status in RETRIED_STATUSES:
        raise AgainError(said, retry_after_s(response.headers.get("Retry-After")))
    raise UsageError(said, where=url, resolution="check the URL, and whether it needs credentials")


def _align(response: requests.Response, partial: Partial) -> None:
    """Makes what has arrived and what is coming meet, or starts again."""
    if response.status_code == 206:  # noqa: PLR2004
        if not response.headers.get("Content-Range", "").startswith(f"bytes {partial.size_bytes}-"):
            partial.restart()
            raise AgainError("the server sent another range than the one asked for")
    else:
        partial.restart()
    etag = response.headers.get("ETag", "")
    partial.validator = etag if etag.startswith('"') else ""
