from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coreimage.signing import GnupgSigner, Role, create_keys
from coreimage.storage.directory import DirectoryStore
from tests.harness.no_fsync import no_fsync


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    with no_fsync():
        yield


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> GnupgSigner:
    folder = tmp_path_factory.mktemp("keys")
    create_keys(folder, bits=dict.fromkeys(Role, 2048))
    return GnupgSigner(folder)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The web root of `store`."""
    return tmp_path / "store" / "system-image"
