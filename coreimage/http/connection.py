"""One request for the bytes that are still missing, to a server or of a local file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import responses
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

import requests
from requests.utils import requote_uri
from urllib3.exceptions import HTTPError

from coreimage.errors import HostError, InfrastructureError, NotFoundError, UsageError, VerificationError
from coreimage.http.partial import PartialDownload
from coreimage.http.retry import RETRIED_STATUSES, RetryError, retry_after_s
from coreimage.http.watch import Watch

_CHUNK_BYTES = 1 << 16
_REDIRECTIONS = {301, 302, 303, 307, 308}
_REDIRECTIONS_AT_MOST = 10
_SHOWN = 300
"""Characters of what a server says that an error repeats."""
_WHOLE_NUMBER = re.compile("[0-9]{1,18}")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,1000}"')


@contextmanager
def open_rest(
    session: requests.Session, url: str, partial: PartialDownload, timeout_s: tuple[float, float], end_s: float
) -> Iterator[tuple[Iterable[bytes], int]]:
    """Open the bytes that `partial` still lacks; it is restarted where the server cannot resume.

    Args:
        session: Made by `watched_session`.
        timeout_s: For connecting, and for the answer and each 64 KiB of it.
        end_s: When all must have arrived, by the clock of `time.monotonic`.

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
        Watch(timeout_s[1], end_s) as watch,
        _explain_network_errors(url, watch, timeout_s[1]),
        _answer(session, url, partial.request_headers(), timeout_s) as response,
    ):
        watch.passed()
        _check_status(response, url, partial)
        if response.status_code != requests.codes.partial_content:
            partial.restart()
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {partial.size_bytes}-"):
            partial.restart()
            raise RetryError("the server sent another range than the one that was requested")
        etag = response.headers.get("ETag", "")
        partial.validator = etag if _STRONG_ETAG.fullmatch(etag) else ""
        rest_bytes = _whole_number(response.headers, "Content-Length")
        yield _chunks(response, watch), partial.size_bytes + rest_bytes if rest_bytes else 0


def _answer(
    session: requests.Session, url: str, headers: dict[str, str], timeout_s: tuple[float, float]
) -> requests.Response:
    """Return the answer, its body not read, that redirections lead to. Their own bodies are nobody's, and not read."""
    place = url
    for _ in range(_REDIRECTIONS_AT_MOST + 1):
        response = session.get(place, headers=headers, stream=True, timeout=timeout_s, allow_redirects=False)
        location = response.headers.get("Location")
        if response.status_code not in _REDIRECTIONS or location is None:
            return response
        response.close()
        place = _redirected(place, location, url)
    raise InfrastructureError(
        f"the server redirects more than {_REDIRECTIONS_AT_MOST} times", where=url, resolution="check the URL"
    )


def _redirected(place: str, location: str, url: str) -> str:
    """Return where a Location header at `place` leads (RFC 9110 §10.2.2)."""
    try:
        target = urljoin(place, requote_uri(location.encode("latin-1").decode("utf-8", "replace")))
        parts = urlsplit(target)
        is_web = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_web = False
    if not is_web:
        raise InfrastructureError(
            f"the server redirects to {location[:200]!r}, which is no web address",
            where=url,
            resolution="check the URL",
        )
    return target


def _chunks(response: requests.Response, watch: Watch) -> Iterator[bytes]:
    for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
        watch.passed()
        yield chunk
    if watch.is_over:
        # Where no length was announced, the cut looks as the end does.
        raise HTTPError("the connection was cut")


def _whole_number(headers: Mapping[str, str], name: str) -> int:
    """Return the number in a header; 0 where there is none."""
    text = headers.get(name, "0")
    if not _WHOLE_NUMBER.fullmatch(text):
        raise RetryError(f"the server's {name} is {text[:80]!r}, which is no number")
    return int(text)


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
def _explain_network_errors(url: str, watch: Watch, stall_s: float) -> Iterator[None]:
    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
        raise UsageError("not a URL that can be downloaded", where=url, resolution="use http, https or file") from None
    except (requests.RequestException, HTTPError, UnicodeError, OverflowError) as error:
        if watch.is_over:
            raise RetryError(f"the server sent less than {_CHUNK_BYTES >> 10} KiB in {stall_s:g} s") from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise VerificationError(
                "the server's certificate was refused",
                where=url,
                resolution="check the host's clock and ca-certificates; name a private CA in REQUESTS_CA_BUNDLE",
            ) from error
        raise RetryError(str(error)[:_SHOWN]) from error


def _check_status(response: requests.Response, url: str, partial: PartialDownload) -> None:
    status = response.status_code
    if status in {requests.codes.ok, requests.codes.partial_content}:
        return
    problem = f"the server answered {status} {responses.get(status, '')}".rstrip()
    if status in {404, 410}:
        raise NotFoundError(problem, where=url, resolution="check the URL")
    if status == requests.codes.requested_range_not_satisfiable and partial.size_bytes:
        partial.restart()
        raise RetryError(problem)
    if status in RETRIED_STATUSES:
        raise RetryError(problem, retry_after_s(response.headers.get("Retry-After")))
    raise UsageError(problem, where=url, resolution="check the URL, and whether it needs credentials")
