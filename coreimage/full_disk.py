"""A full disk, out of the words of the programs that met it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from coreimage.errors import HostError, ProcessError

_WORDS = (
    "No space left on device",
    "File too large",
    "You don't have enough free space in",
    "E: IO Error saving source cache",
    "E: Write error",
)
"""Of the C library, and of apt, which looks before it copies, and does not always say why it could not write."""


def full_disk(text: str, where: str) -> HostError | None:
    """Pure: what to tell when `text`, what a program said, means that."""
    if not any(words in text for words in _WORDS):
        return None
    return HostError(
        "the disk is full, or a limit on file sizes was reached",
        where=where,
        resolution="free some space, or let TMPDIR name a folder with about 2 GB free",
    )


@contextmanager
def telling_full_disk(where: str) -> Iterator[None]:
    """Raises HostError for a program, or a write of our own, that failed in the block because of it."""
    try:
        yield
    except ProcessError as error:
        if full := full_disk("\n".join(error.last_lines), where):
            raise full from error
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EFBIG} and (full := full_disk(str(error), where)):
            raise full from error
        raise
