"""The expected size and digest of a download, and the bytes that have arrived so far."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from coreimage.errors import VerificationError
from coreimage.host.disk_space import write_error
from coreimage.logs import printable

FREE_TARGET_SPACE = "free some space and run again"


class MismatchError(VerificationError):
    """Other bytes have arrived than expected; once, a cache between us and the server may be the reason."""


@dataclass(frozen=True)
class Expected:
    """The size and digest that a download must have. What is `None` is not checked."""

    url: str
    sha256: str | None = None
    size_bytes: int | None = None
    limit_bytes: int | None = None

    @property
    def name(self) -> str:
        """The last part of the URL's path, for people."""
        return printable(unquote(urlsplit(self.url).path).rpartition("/")[2] or self.url)

    def check_size_so_far(self, size_bytes: int) -> None:
        """Raise VerificationError as soon as it is known that there are too many bytes."""
        if self.limit_bytes is not None and size_bytes > self.limit_bytes:
            raise VerificationError(
                f"there is more than the {self.limit_bytes} bytes that are accepted here",
                where=self.url,
                resolution="check that the URL names the right file",
            )
        if self.size_bytes is not None and size_bytes > self.size_bytes:
            raise self._mismatch(f"{self.size_bytes} bytes were promised, more came")

    def check(self, partial: PartialDownload) -> None:
        """Raise MismatchError unless the size and digest of what has arrived are right."""
        if self.size_bytes is not None and partial.size_bytes != self.size_bytes:
            raise self._mismatch(f"{self.size_bytes} bytes were promised, {partial.size_bytes} came")
        if self.sha256 is not None and partial.sha256 != self.sha256:
            raise self._mismatch(f"sha256 is {partial.sha256}, not {self.sha256}")

    def _mismatch(self, problem: str) -> MismatchError:
        return MismatchError(
            problem, where=self.url, resolution="do not use this file; the server or a cache on the way is wrong"
        )


@dataclass
class PartialDownload:
    """The bytes that have arrived so far, in a file; their digest is kept up to date."""

    file: BinaryIO
    size_bytes: int = 0
    validator: str = ""
    """A strong ETag of these bytes. Only with one is it safe to request the rest, unless the digest will decide."""
    digest_decides: bool = False
    """Whether the digest of the whole is known, so that the rest may be requested without a validator."""
    on_bytes: Callable[[int], None] | None = None
    """Called with the number of bytes that have arrived since; negative when the download restarts."""
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Write bytes that have arrived.

        Raises:
            HostError: They cannot be written.
        """
        try:
            self.file.write(chunk)
        except OSError as error:
            raise write_error(error, str(self.file.name), resolution=FREE_TARGET_SPACE) from error
        self._digest.update(chunk)
        self._move(len(chunk))

    def resume(self, limit_bytes: int) -> None:
        """Continue with the bytes of an earlier run in the file; drop them if there are more than `limit_bytes`."""
        self.file.seek(0)
        while chunk := self.file.read(1 << 20):
            self._digest.update(chunk)
            self.size_bytes += len(chunk)
        if self.size_bytes > limit_bytes:
            self.restart()

    def restart(self) -> None:
        """Drop the bytes that have arrived."""
        self.file.seek(0)
        self.file.truncate()
        self._digest = hashlib.sha256()
        self.validator = ""
        self._move(-self.size_bytes)

    def request_headers(self) -> dict[str, str]:
        """Return the headers that request the missing bytes (RFC 9110 §13.1.5, §14.2)."""
        # The size, ranges and digest of a compressed transfer would be those of something else.
        headers = {"Accept-Encoding": "identity"}
        if self.size_bytes and (self.validator or self.digest_decides):
            headers["Range"] = f"bytes={self.size_bytes}-"
            headers |= {"If-Range": self.validator} if self.validator else {}
        return headers

    def _move(self, by_bytes: int) -> None:
        self.size_bytes += by_bytes
        if self.on_bytes:
            self.on_bytes(by_bytes)
