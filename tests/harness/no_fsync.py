"""Writes that do not wait until their bytes have reached the disk.

Only a power cut shows the difference, and processes that tests start and kill are not concerned: in them it stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_fsync() -> Iterator[None]:
    """Let `os.fsync` of this process do nothing in the block: it is a good part of the time of thousands of writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
