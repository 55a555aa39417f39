"""The only place that downloads: resumable, verified while streaming, with progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Progress(Protocol):
    """Told of each download: `start` once its size is known (0 when not), `advance` per chunk, `finish` at its end."""

    def start(self, name: str, size_bytes: int) -> Callable[[int], None]: ...

    def finish(self, name: str) -> None: ...


class Fetch(Protocol):
    """Downloads `url` (http, https or file) to `path`. See `fetch` for the arguments."""

    def __call__(
        self,
        url: str,
        path: Path,
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        limit_bytes: int | None = None,
    ) -> Path: ...
