"""One request for the bytes that are still missing, to a server or of a local file."""

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
from coreimage.http.partial import PartialDownload
from coreimage.http.retry import RETRIED_STATUSES, RetryError, retry_after_s

_CHUNK_BYTES = 1 << 16


@contextmanager
def open_rest(
    session: requests.Session, url: str, partial: PartialDownload, timeout_s: tuple[float, float]
) -> Iterator[tuple[Iterable[bytes], int]]:
    """Open the bytes that `partial` still lacks; it is restarted where the server cannot resume.

    Args:
        timeout_s: For connecting, and for each read.

    Yields:
        The chunks, and the size of the whole download; 0 when it is not known.

    Raises:
        RetryError: Another attempt may succeed.
        CoreimageError: No further attempt can succeed.
    """
    if urlsplit(url).scheme == "file":
        with _open_local(url) as file:
            partial.restart()
            yield iter(lambda: file.read(_CHUNK_BYTES), b""), os.fstat(file.fileno()).st_size
        return
    with (
        _explain_network_errors(url),
        session.get(url, headers=partial.request_headers(), stream=True, timeout=timeout_s) as response,
    ):
        _check_status(response, url, partial)
        if response.status_code != requests.codes.partial_content:
            partial.restart()
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {partial.size_bytes}-"):
            partial.restart()
            raise RetryError("the server sent another range than the one that was requested")
        etag = response.headers.get("ETag", "")
        partial.validator = etag if etag.startswith('"') else ""
        rest_bytes = int(response.headers.get("Content-Length", 0))
        yield (
            response.raw.stream(_CHUNK_BYTES, decode_content=False),
            partial.size_bytes + rest_bytes if rest_bytes else 0,
        )


@contextmanager
def _open_local(url: str) -> Iterator[BinaryIO]:
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
def _explain_network_errors(url: str) -> Iterator[None]:
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
        raise RetryError(str(error)) from error


def _check_status(response: requests.Response, url: str, partial: PartialDownload) -> None:
    status = response.status_code
    if status in {requests.codes.ok, requests.codes.partial_content}:
        return
    problem = f"the server answered {status} {response.reason}"
    if status in {404, 410}:
        raise NotFoundError(problem, where=url, resolution="check the URL")
    if status == requests.codes.requested_range_not_satisfiable and partial.size_bytes:
        partial.restart()
        raise RetryError(problem)
    if status in RETRIED_STATUSES:
        raise RetryError(problem, retry_after_s(response.headers.get("Retry-After")))
    raise UsageError(problem, where=url, resolution="check the URL, and whether it needs credentials")
