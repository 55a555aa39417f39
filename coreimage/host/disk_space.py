"""The one answer to "the disk is full", whoever met it: a write of our own, or a program and what it printed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from coreimage.errors import DiskFullError, HostError, ProcessError

FREE_SPACE = "free some space, or let TMPDIR name a folder with about 2 GB free"
_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    # apt compares sizes before it copies, and does not always print why it could not write.
    "You don't have enough free space in",
    "E: IO Error saving source cache",
    "E: Write error",
)


def disk_full(cause: OSError | ProcessError | str, where: str, *, resolution: str = FREE_SPACE) -> DiskFullError | None:
    """Return the error to raise when `cause` means that a disk is full, else `None`.

    Args:
        cause: A write that failed, a program that failed, or the output of a program.
        where: The file that was being written, or what was going on, such as "while packing the rootfs".
    """
    if isinstance(cause, OSError):
        full = cause.errno in _ERRNOS
    else:
        output = cause if isinstance(cause, str) else "\n".join(cause.last_lines)
        full = any(words in output for words in _WORDS)
    if not full:
        return None
    return DiskFullError("the disk is full, or a limit on file sizes was reached", where=where, resolution=resolution)


@contextmanager
def explain_full_disk(where: str, *, resolution: str = FREE_SPACE) -> Iterator[None]:
    """Raise `DiskFullError` in place of any error of the block that means a full disk; pass on every other error."""
    try:
        yield
    except (OSError, ProcessError) as error:
        if full := disk_full(error, where, resolution=resolution):
            raise full from error
        raise


def write_error(error: OSError, where: str, *, problem: str = "cannot write", resolution: str) -> HostError:
    """Return the error to raise for a failed write: `DiskFullError`, or `problem` with the system's reason."""
    full = disk_full(error, where, resolution=resolution)
    return full or HostError(f"{problem}: {error.strerror}", where=where, resolution=resolution)
