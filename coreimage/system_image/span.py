"""Contents that are looked at in parts: in memory, or large ones where they lie in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

IN_MEMORY_BYTES = 4 << 20


class Bytes(Protocol):
    """As much of `bytes` as looking at a content takes. Slices have no steps and no negative places."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...

    def startswith(self, starts: bytes | tuple[bytes, ...], at: int = 0, /) -> bool: ...


class FileBytes:
    """All of a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._size_bytes = path, path.stat().st_size

    def __len__(self) -> int:
        return self._size_bytes

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._size_bytes)
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), max(0, stop - start), start)

    def startswith(self, starts: bytes | tuple[bytes, ...], at: int = 0, /) -> bool:
        longest = max(map(len, (starts,) if isinstance(starts, bytes) else starts))
        return self[at : at + longest].startswith(starts)


def bytes_of(path: Path) -> Bytes:
    """In memory where the file is small. The file must stay as long as the other is used."""
    return path.read_bytes() if path.stat().st_size <= IN_MEMORY_BYTES else FileBytes(path)
