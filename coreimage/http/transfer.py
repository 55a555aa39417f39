"""What a download must become, and what has arrived of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from coreimage.errors import HostError, VerificationError


class MismatchError(VerificationError):
    """Other bytes than promised: once, this may be the fault of a cache on the way."""


@dataclass(frozen=True)
class Wanted:
    url: str
    sha256: str | None = None
    size_bytes: int | None = None
    limit_bytes: int | None = None

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.url).path).rpartition("/")[2] or self.url

    def check_size(self, size_bytes: int) -> None:
        """Refuses as soon as it is known that there is too much."""
        if self.limit_bytes is not None and size_bytes > self.limit_bytes:
            raise VerificationError(
                f"there is more than the {self.limit_bytes} bytes that are accepted here",
                where=self.url,
                resolution="check that the URL names the right file",
            )
        if self.size_bytes is not None and size_bytes > self.size_bytes:
            raise self._mismatch(f"{self.size_bytes} bytes were promised, more came")

    def check(self, partial: Partial) -> None:
        if self.size_bytes is not None and partial.size_bytes != self.size_bytes:
            raise self._mismatch(f"{self.size_bytes} bytes were promised, {partial.size_bytes} came")
        if self.sha256 is not None and partial.sha256 != self.sha256:
            raise self._mismatch(f"sha256 is {partial.sha256}, not {self.sha256}")

    def _mismatch(self, problem: str) -> MismatchError:
        return MismatchError(
            problem, where=self.url, resolution="do not use this file; the server or a cache on the way is wrong"
        )


@dataclass
class Partial:
    """What has arrived so far, its digest kept up to date."""

    file: BinaryIO
    size_bytes: int = 0
    validator: str = ""
    """A strong ETag of what has arrived: only with one can the rest be asked for safely."""
    digest_decides: bool = False
    """The whole will be judged by its digest, so that the rest may be asked for without a validator."""
    shown: Callable[[int], None] | None = None
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        try:
            self.file.write(chunk)
        except OSError as error:
            raise disk_error(error, Path(str(self.file.name))) from error
        self._digest.update(chunk)
        self._moved(len(chunk))

    def take_up(self, limit_bytes: int) -> None:
        """Counts what the file holds from an earlier time, unless that is too much."""
        self.file.seek(0)
        while chunk := self.file.read(1 << 20):
            self._digest.update(chunk)
            self.size_bytes += len(chunk)
        if self.size_bytes > limit_bytes:
            self.restart()

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self._digest = hashlib.sha256()
        self.validator = ""
        self._moved(-self.size_bytes)

    def _moved(self, by_bytes: int) -> None:
        self.size_bytes += by_bytes
        if self.shown:
            self.shown(by_bytes)

    def request_headers(self) -> dict[str, str]:
        # Compressed transfers would make sizes, ranges and digests those of something else.
        headers = {"Accept-Encoding": "identity"}
        if self.size_bytes and (self.validator or self.digest_decides):
            headers["Range"] = f"bytes={self.size_bytes}-"
            headers |= {"If-Range": self.validator} if self.validator else {}
        return headers


def disk_error(error: OSError, path: Path) -> HostError:
    return HostError(f"cannot write: {error.strerror}", where=str(path), resolution="free some space and run again")
