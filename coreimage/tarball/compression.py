"""Compression whose bytes depend neither on the clock nor on the number of cores."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO, Literal

from coreimage.process import Run

MAXIMUM = 9
_BLOCK_SIZE = "16MiB"
"""Multi-threaded xz cuts its input into blocks: with a fixed size the output is the same for any number of threads."""


class XzFilter(Enum):
    """What is done before LZMA2: `X86` makes machine code of amd64 smaller (xz(1), branch/call/jump filters)."""

    NONE = "none"
    X86 = "x86"
    ARM64 = "arm64"


class GzipWriter:
    """A gzip stream with no name and no time in its header (RFC 1952: MTIME 0, OS 255 unknown)."""

    def __init__(self, file: IO[bytes], level: int) -> None:
        self._file = file
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc, self._size = 0, 0
        file.write(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")

    def write(self, chunk: bytes) -> int:
        self._crc = zlib.crc32(chunk, self._crc)
        self._size += len(chunk)
        self._file.write(self._deflate.compress(chunk))
        return len(chunk)

    def finish(self) -> None:
        self._file.write(self._deflate.flush())
        self._file.write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))


@contextmanager
def gzip_writer(path: Path, level: int = 1) -> Iterator[GzipWriter]:
    """Writes `path`, which is gone again when the block fails."""
    try:
        with path.open("wb") as file:
            writer = GzipWriter(file, level)
            yield writer
            writer.finish()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def compress_xz(
    source: Path,
    target: Path,
    *,
    run: Run,
    preset: int = 2,
    filters: XzFilter = XzFilter.NONE,
    check: Literal["crc32", "crc64", "sha256"] = "crc64",
    threads: int = 2,
) -> Path:
    """Compresses with the `xz` tool; `target` is gone again when that fails. The same bytes for any `threads`."""
    lzma = ["--lzma2=preset=" + str(preset)]
    chain = lzma if filters is XzFilter.NONE else [f"--{filters.value}", *lzma]
    argv = [
        "xz",
        "--stdout",
        "--keep",
        f"--threads={max(2, threads)}",
        f"--block-size={_BLOCK_SIZE}",
        f"--check={check}",
    ]
    try:
        with target.open("wb") as file:
            run([*argv, *chain, source], stdout=file)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target
