"""A store in memory, for tests that make many. It keeps what every store promises: the contract tests run on it too."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import BinaryIO

from coreimage.errors import LostWriteError, NotFoundError
from coreimage.storage.store import ObjectInfo, check_key


@dataclass(frozen=True)
class _Object:
    content: bytes
    media_type: str
    info: ObjectInfo


class MemoryStore:
    """Objects in memory; `now` gives the time at which they are said to be written."""

    url = "memory:"
    server = ""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._objects: dict[str, _Object] = {}
        self._numbers = count()
        self._lock = threading.Lock()

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        check_key(key)
        with self._lock:
            present = self._objects.get(key)
            if if_absent and present:
                raise LostWriteError(f"{key} exists already", where=self.url)
            if if_match is not None and (present is None or present.info.etag != if_match):
                raise LostWriteError(f"{key} was changed", where=self.url)
            info = ObjectInfo(key, len(content), f"etag-{next(self._numbers)}", self._now())
            self._objects[key] = _Object(bytes(content), media_type, info)
        return info

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        if not path.is_file():
            raise NotFoundError("there is no such file to store", where=str(path))
        return self.put_bytes(key, path.read_bytes(), media_type=media_type, if_absent=if_absent, if_match=if_match)

    @contextmanager
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[BinaryIO]:
        yield io.BytesIO(self._object(key).content[start:stop])

    def head(self, key: str) -> ObjectInfo | None:
        stored = self._objects.get(check_key(key))
        return stored.info if stored else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if prefix:
            check_key(f"{prefix}x")
        with self._lock:
            infos = [stored.info for key, stored in sorted(self._objects.items()) if key.startswith(prefix)]
        yield from infos

    def folders(self, prefix: str) -> tuple[str, ...]:
        rests = [info.key.removeprefix(prefix) for info in self.list(prefix)]
        return tuple(sorted({rest.split("/")[0] for rest in rests if "/" in rest}))

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        stored = self._object(source)
        return self.put_bytes(target, stored.content, media_type=stored.media_type, if_absent=if_absent)

    def delete(self, keys: Iterable[str]) -> None:
        for key in [check_key(key) for key in keys]:
            with self._lock:
                self._objects.pop(key, None)

    def media_type(self, key: str) -> str:
        """Return what the object at `key` was put as: readers on the web are told."""
        return self._object(key).media_type

    def _object(self, key: str) -> _Object:
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise NotFoundError(f"{key} is not in the store", where=self.url) from None
