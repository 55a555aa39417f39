from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from coreimage.boot_test import probe_accelerator
from coreimage.process import run
from tests.harness.s3 import S3Server, seaweedfs
from tests.harness.strict_client import check_tree
from tests.harness.tools import SharedTools, shared_tools

hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")
"""An example may take long on a machine that has other work."""


def pytest_configure() -> None:
    """Jobs in the background ignore interrupts, and children inherit that: those of the tests must not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A client of 2015 reads every tree that a test leaves in its folder, and installs all that it offers."""
    result = yield
    folder = pyfuncitem.funcargs.get("tmp_path")
    if isinstance(folder, Path) and pyfuncitem.get_closest_marker("spoils") is None:
        for depth in ("", "*/", "*/*/", "*/*/*/"):
            for channels in folder.glob(f"{depth}system-image/channels.json"):
                archive_master = channels.parent / "gpg/archive-master.tar.xz"
                if archive_master.exists():
                    check_tree(channels.parent, archive_master.read_bytes())
    return result


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tools trees are unpacked once for all workers, and not where the user has theirs."""
    own = tmp_path_factory.getbasetemp()
    os.environ["COREIMAGE_CACHE"] = str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache")


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> SharedTools:
    return shared_tools(tmp_path_factory)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def accelerator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return probe_accelerator(run=run, work_folder=tmp_path_factory.mktemp("probe"))
