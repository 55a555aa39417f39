from __future__ import annotations

from collections.abc import Iterator

import pytest

from coreimage.boot_test import probe_accelerator
from coreimage.process import run
from tests.harness.s3 import S3Server, seaweedfs


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def accelerator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return probe_accelerator(run=run, work_folder=tmp_path_factory.mktemp("probe"))
