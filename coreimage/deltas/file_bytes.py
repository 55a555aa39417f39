"""Contents that are looked at in parts: in memory, or large ones where they lie in a file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, Protocol

IN_MEMORY_BYTES = 4 << 20


class Bytes(Protocol):
    """As much of `bytes` as looking at a content takes. Slices have no steps and no negative places."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...

    def startswith(self, starts: bytes | tuple[bytes, ...], at: int = 0, /) -> bool: ...


class FileBytes:
    """A content that is read anew for each part.

    `opened` opens it, `size_bytes` is all of it, and `reading` is held while it is read.
    """

    def __init__(
        self,
        opened: Callable[[], IO[bytes]],
        size_bytes: int,
        reading: AbstractContextManager[Any] = nullcontext(),  # noqa: B008
    ) -> None:
        self._opened, self._size_bytes, self._reading = opened, size_bytes, reading

    def __len__(self) -> int:
        return self._size_bytes

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._size_bytes)
        with self._reading, self._opened() as file:
            file.seek(start)
            return file.read(max(0, stop - start))

    def startswith(self, starts: bytes | tuple[bytes, ...], at: int = 0, /) -> bool:
        longest = max(map(len, (starts,) if isinstance(starts, bytes) else starts))
        return self[at : at + longest].startswith(starts)


def file_bytes(path: Path) -> FileBytes:
    """Return the content of a file, which must stay as long as the content is used."""
    return FileBytes(lambda: path.open("rb"), path.stat().st_size)


def bytes_of(content: FileBytes) -> Bytes:
    """Return a content, read into memory where it is small."""
    return content[:] if len(content) <= IN_MEMORY_BYTES else content
