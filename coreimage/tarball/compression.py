"""Compression with the machine's tools, while the content is written or read; pipes between threads of ours and tools.

The bytes depend neither on the clock nor on the number of cores.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import IO, Literal

from coreimage.errors import ProcessError, VerificationError
from coreimage.host.children import interruptible
from coreimage.host.process import Run

MAXIMUM = 9
_BLOCK_SIZE = "16MiB"
"""Multi-threaded xz cuts its input into blocks: with a fixed size the output is the same for any number of threads."""
_PIPE_BYTES = 1 << 20
_DECOMPRESSORS = {
    b"\xfd7zXZ\0": ("xz", "-dc", "--threads=2"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-dcq"),
    b"\x1f\x8b": ("gzip", "-dc"),
}


@contextmanager
def gzip_writer(path: Path, *, run: Run, level: int = 1) -> Iterator[IO[bytes]]:
    """Compress what the block writes to `path` with pigz, without name and time. When either fails, `path` is removed.

    Where pigz fails, that is raised, and not the broken pipe that it leaves to the block.
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
    """Run a compressor. Its input is closed with it: who writes must not wait for a reader that has ended."""
    with os.fdopen(reading, "rb") as content:
        run(argv, stdin=content, stdout=target)


def compress_xz(
    produce: Callable[[IO[bytes]], object],
    target: Path,
    *,
    run: Run,
    lzma: str = "preset=2",
    code_filter: Literal["x86"] | None = None,
    check: Literal["crc32", "crc64", "sha256"] = "crc64",
    threads: int = 2,
    block_size: str = _BLOCK_SIZE,
) -> Path:
    """Compress what `produce` writes with xz. When either fails, `target` is removed, and that is raised.

    Args:
        produce: Writes the content, in a thread of its own.
        target: The file that is written.
        run: Starts xz.
        lzma: Options of xz's `--lzma2`.
        code_filter: The filter that machine code goes through first (xz(1), branch/call/jump filters).
        check: The check of the content.
        threads: Has no influence on the bytes. Each thread has one block at a time.
        block_size: How much is compressed by itself.
    """
    chain = [*([f"--{code_filter}"] if code_filter else []), f"--lzma2={lzma}"]
    argv = ["xz", "--stdout", f"--threads={max(2, threads)}", f"--block-size={block_size}", f"--check={check}"]
    try:
        with target.open("wb") as file, written_by(produce) as content:
            run([*argv, *chain], stdin=content, stdout=file)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def compress_zstd(produce: Callable[[IO[bytes]], object], target: Path, *, run: Run, level: int) -> Path:
    """Compress what `produce` writes with zstd. When either fails, `target` is removed, and that is raised.

    It has two threads: the bytes do not depend on their number, but on whether there are any.
    """
    try:
        with target.open("wb") as file, written_by(produce) as content:
            run(["zstd", "--stdout", "--quiet", "--threads=2", "--check", f"-{level}"], stdin=content, stdout=file)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def decompress(packed: Path, target: Path, *, run: Run) -> Path:
    """Unpack an xz, zstd or gzip file, told by its first bytes, to `target`, and return where the content is.

    That is `packed` itself where it is none of them.

    Raises:
        VerificationError: It is damaged. `target` is removed.
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
    """Open a file like `decompress`, as a stream. A reader may stop early; damage is raised where the block ends."""
    argv = _decompressor(packed)
    return packed.open("rb") if argv is None else written_by(partial(_decompress, packed, argv, run))


def _decompressor(packed: Path) -> Sequence[str] | None:
    with packed.open("rb") as file:
        magic = file.read(6)
    return next((argv for start, argv in _DECOMPRESSORS.items() if magic.startswith(start)), None)


def _decompress(packed: Path, argv: Sequence[str], run: Run, target: IO[bytes]) -> None:
    try:
        # SIGPIPE: a reader that stopped early is no damage.
        run([*argv, str(packed)], stdout=target, accept=(0, -signal.SIGPIPE))
    except ProcessError as error:
        raise VerificationError(
            f"is damaged: {' '.join(error.last_lines)}",
            where=str(packed),
            resolution="delete this file, and get it again",
        ) from error


@contextmanager
def written_by(produce: Callable[[IO[bytes]], object]) -> Iterator[IO[bytes]]:
    """Open a pipe for reading, which `produce` fills in a thread of its own. Children belong to the calling thread.

    The reading end is closed before the thread is waited for, so that a producer without a reader ends too. When both
    fail, the error of the producer is raised if it came first: the reader only failed for want of content.
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
    """Open a pipe for writing, which `consume` empties in a thread of its own.

    The writing end is closed before the thread is waited for. When the block fails because the reader has ended, the
    error of `consume` is raised.
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
    """Make a pipe, a large one where the user may: writer and reader then wait less for each other."""
    reading, writing = os.pipe()
    with suppress(PermissionError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


def _fill(produce: Callable[[IO[bytes]], object], writing: int, failed: list[Exception]) -> None:
    with os.fdopen(writing, "wb", _PIPE_BYTES) as file:
        try:
            produce(file)
        except Exception as error:
            # Before the file is closed: the reader must not see its end first.
            failed.append(error)
            raise


def _empty(consume: Callable[[IO[bytes]], object], reading: int) -> None:
    with os.fdopen(reading, "rb") as file:
        consume(file)
