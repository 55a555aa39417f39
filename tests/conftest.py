from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from coreimage.boot_test import probe_accelerator
from coreimage.host.process import run
from tests.harness.examples import register_profiles
from tests.harness.s3 import S3Server, seaweedfs, trees
from tests.harness.strict_client import check_tree
from tests.harness.tools import SharedTools, shared_tools

register_profiles()


def pytest_configure() -> None:
    """Jobs in the background ignore interrupts, and children inherit that: those of the tests must not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_LONGEST_FIRST = ("chain", "boot", "operate", "flows", "integration", "contract")
"""The folders by how long one of their files takes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files: a long one that began last would run alone while the other worker waits."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)

    items.sort(key=rank)


_OF_ONE_RUN = {f"tests/chain/{name}.py" for name in ("test_chain", "test_customised", "test_reproduce")}
"""The files whose tests look at the one real run of the chain, which a second worker would do again."""


class _Files(LoadFileScheduling):  # type: ignore[misc]
    """Gives each file to one worker, and all files of the one real run to the same."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "tests/chain" if file in _OF_ONE_RUN else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return _Files(config, log) if config.getvalue("dist") == "loadfile" else None


def _read_trees(folder: Path) -> None:
    """A client of 2015 reads every tree in a folder of a test, and installs all that it offers."""
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for channels in folder.glob(f"{depth}system-image/channels.json"):
            archive_master = channels.parent / "gpg/archive-master.tar.xz"
            if archive_master.exists():
                check_tree(channels.parent, archive_master.read_bytes())


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    result = yield
    folder = pyfuncitem.funcargs.get("tmp_path")
    if isinstance(folder, Path) and pyfuncitem.get_closest_marker("spoils") is None:
        _read_trees(folder)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Those that several tests share are read as soon as they are made: the tests may spoil them."""
    if fixturedef.scope == "function" or fixturedef.argname == "tmp_path_factory":
        return (yield)
    base = request.getfixturevalue("tmp_path_factory").getbasetemp()
    before = set(base.iterdir())
    result = yield
    for folder in sorted(set(base.iterdir()) - before):
        if folder.is_dir() and not folder.is_symlink():
            _read_trees(folder)
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
        for fetch in trees(server):
            check_tree(fetch, fetch("gpg/archive-master.tar.xz") or b"")


@pytest.fixture(scope="session")
def accelerator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return probe_accelerator("amd64", run=run, work_folder=tmp_path_factory.mktemp("probe"))
