"""What holds for all unit tests: none waits for the disk, or for other writers, as there are none."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.harness.no_fsync import no_fsync


@pytest.fixture(scope="session", autouse=True)
def _no_waiting() -> Iterator[None]:
    with no_fsync(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("coreimage.storage.swap"), "LONGEST_PAUSE_S", 0.001)
        yield
