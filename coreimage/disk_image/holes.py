"""Where a sparse file has content."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def extents(handle: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a file that is no hole, in order (lseek(2), SEEK_DATA and SEEK_HOLE)."""
    position, size_bytes = 0, os.fstat(handle).st_size
    while position < size_bytes:
        try:
            start = os.lseek(handle, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, position
