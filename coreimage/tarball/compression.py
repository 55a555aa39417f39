"""Compression whose bytes depend neither on the clock nor on the number of cores."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from enum import Enum
from functools import partial
from pathlib import Path
from typing import IO, Literal

from coreimage.errors import ProcessError, VerificationError
from coreimage.process import Run, interruptible

MAXIMUM = 9
_BLOCK_SIZE = "16MiB"
"""Multi-threaded xz cuts its input into blocks: with a fixed size the output is the same for any number of threads."""
_PIPE_BYTES = 1 << 20
_DECOMPRESSORS = {
    b"\xfd7zXZ\0": ("xz", "-dc", "--threads=2"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-dcq"),
    b"\x1f\x8b": ("gzip", "-dc"),
}


class XzFilter(Enum):
    """What is done before LZMA2: `X86` makes machine code of amd64 smaller (xz(1), branch/call/jump filters)."""

    NONE = "none"
    X86 = "x86"
    ARM64 = "arm64"


@contextmanager
def gzip_writer(path: Path, *, run: Run, level: int = 1) -> Iterator[IO[bytes]]:
    """Writes `path` with the `pigz` tool, without name and time, while the block writes; gone again when either fails.

    The block runs in the calling thread; what pigz says of a failure goes before the broken pipe that it left.
    """
    reading, writing = _pipe()
    argv = ["pigz", "--no-name", "--processes", "2", "--stdout", f"-{level}"]
    try:
        with path.open("wb") as target, ThreadPoolExecutor(1) as pool:
            with os.fdopen(writing, "wb", _PIPE_BYTES) as file:
                packed = pool.submit(copy_context().run, _consume, reading, argv, target, run)
                try:
                    yield file
                    file.flush()
                except BrokenPipeError:
                    packed.result()
                    raise
            packed.result()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _consume(reading: int, argv: list[str], target: IO[bytes], run: Run) -> None:
    """The reading end is closed with the child: whoever writes must not wait for a reader that is gone."""
    with os.fdopen(reading, "rb") as content:
        run(argv, stdin=content, stdout=target)


def compress_xz(
    produce: Callable[[IO[bytes]], object],
    target: Path,
    *,
    run: Run,
    lzma: str = "preset=2",
    filters: XzFilter = XzFilter.NONE,
    check: Literal["crc32", "crc64", "sha256"] = "crc64",
    threads: int = 2,
    block_size: str = _BLOCK_SIZE,
) -> Path:
    """Compresses what `produce` writes, while it writes, with the `xz` tool. The same bytes for any `threads`.

    `lzma` has options of xz's `--lzma2`; each thread has one block at a time. Raises what `produce` raises; `target` is
    gone again when either fails.
    """
    chain = [*([] if filters is XzFilter.NONE else [f"--{filters.value}"]), f"--lzma2={lzma}"]
    argv = ["xz", "--stdout", f"--threads={max(2, threads)}", f"--block-size={block_size}", f"--check={check}"]
    try:
        with target.open("wb") as file, written_by(produce) as content:
            run([*argv, *chain], stdin=content, stdout=file)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def compress_zstd(produce: Callable[[IO[bytes]], object], target: Path, *, run: Run, level: int) -> Path:
    """The same with the `zstd` tool, two threads: its bytes do not depend on how many there are, once there are any."""
    try:
        with target.open("wb") as file, written_by(produce) as content:
            run(["zstd", "--stdout", "--quiet", "--threads=2", "--check", f"-{level}"], stdin=content, stdout=file)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def decompress(packed: Path, target: Path, *, run: Run) -> Path:
    """Unpacks an xz, zstd or gzip file, told by its first bytes, with that tool; a plain one is given back as it is.

    Raises VerificationError for a damaged one; `target` is gone again then.
    """
    argv = _decompressor(packed)
    if argv is None:
        return packed
    try:
        with target.open("wb") as file:
            _decompress(packed, argv, run, file)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def decompressed(packed: Path, *, run: Run) -> AbstractContextManager[IO[bytes]]:
    """The same as a stream. A reader may leave when it has seen enough; damage is raised where the block ends."""
    argv = _decompressor(packed)
    return packed.open("rb") if argv is None else written_by(partial(_decompress, packed, argv, run))


def _decompressor(packed: Path) -> Sequence[str] | None:
    with packed.open("rb") as file:
        magic = file.read(6)
    return next((argv for start, argv in _DECOMPRESSORS.items() if magic.startswith(start)), None)


def _decompress(packed: Path, argv: Sequence[str], run: Run, target: IO[bytes]) -> None:
    """A reader that has seen enough, and is gone, is no damage."""
    try:
        run([*argv, str(packed)], stdout=target, accept=(0, -signal.SIGPIPE))
    except ProcessError as error:
        raise VerificationError(
            f"is damaged: {' '.join(error.last_lines)}",
            where=str(packed),
            resolution="get it again: delete this file",
        ) from error


@contextmanager
def written_by(produce: Callable[[IO[bytes]], object]) -> Iterator[IO[bytes]]:
    """The reading end of a pipe that `produce` fills in a thread of its own; children belong to the calling thread.

    The reading end is closed before the thread is awaited: a producer whose reader is gone ends too. When both fail,
    what the first raised is raised: a reader fails for want of what it was promised, a producer for want of a reader.
    """
    failed: list[Exception] = []
    reading, writing = _pipe()
    with ThreadPoolExecutor(1) as pool, interruptible():
        with os.fdopen(reading, "rb", _PIPE_BYTES) as reader:
            filled = pool.submit(copy_context().run, _fill, produce, writing, failed)
            try:
                yield reader
            except Exception as error:
                if failed:
                    raise failed[0] from error
                raise
        filled.result()


@contextmanager
def read_by(consume: Callable[[IO[bytes]], object]) -> Iterator[IO[bytes]]:
    """The writing end of a pipe that `consume` empties in a thread of its own.

    It is closed, unless the block has done so, before the thread is awaited. When the block fails because its reader is
    gone, what `consume` raised is raised.
    """
    reading, writing = _pipe()
    with ThreadPoolExecutor(1) as pool, interruptible():
        with os.fdopen(writing, "wb", _PIPE_BYTES) as writer:
            emptied = pool.submit(copy_context().run, _empty, consume, reading)
            try:
                yield writer
                writer.close()
            except BrokenPipeError:
                emptied.result()
                raise
            finally:
                with suppress(BrokenPipeError):
                    writer.close()
        emptied.result()


def _pipe() -> tuple[int, int]:
    """A large one, where the user may: fewer turns for who writes and who reads."""
    reading, writing = os.pipe()
    with suppress(PermissionError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


def _fill(produce: Callable[[IO[bytes]], object], writing: int, failed: list[Exception]) -> None:
    """A failure is noted before the reader can see the end that it makes."""
    with os.fdopen(writing, "wb", _PIPE_BYTES) as file:
        try:
            produce(file)
        except Exception as error:
            failed.append(error)
            raise


def _empty(consume: Callable[[IO[bytes]], object], reading: int) -> None:
    with os.fdopen(reading, "rb") as file:
        consume(file)
