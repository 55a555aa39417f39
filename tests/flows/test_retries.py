"""What is tried again by itself and what is not: real failures of real tasks, over a mirror that fails as told."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import Task, flow
from prefect.client.schemas.objects import State

import tasks
from coreimage.errors import BuildError, InfrastructureError, UsageError, VerificationError
from coreimage.http.retry import ATTEMPTS
from coreimage.model import ArtifactRef
from coreimage.rootfs import ArchiveSpec, ToolsSpec
from coreimage.rootfs.spec import binary_keyring
from coreimage.storage import put_blob_bytes
from tasks.rootfs import build_tools, plan_tools, probe_archives
from tasks.site import Site
from tests.harness.archive import LocalArchive, TestKey
from tests.harness.proxy import Fault, faulty, status, wrong_bytes
from tests.harness.server import Server

RETRIES = 3
WRONG = (wrong_bytes(), wrong_bytes())
"""Once, a cache on the way may be at fault, so that one download is made anew by itself."""


@pytest.fixture(scope="module")
def keys() -> Iterator[tuple[TestKey, TestKey]]:
    # gpg-agent's socket path must be short.
    folder = Path(tempfile.mkdtemp(prefix="keys-"))
    made = TestKey.make(folder / "a", "archive"), TestKey.make(folder / "b", "other")
    yield made
    for key in made:
        key.close()
    shutil.rmtree(folder)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(store_url=str(tmp_path / "store"), keys_folder=str(tmp_path / "keys"))


@pytest.fixture
def mirror(tmp_path: Path, keys: tuple[TestKey, TestKey]) -> Iterator[Server]:
    archive = LocalArchive(tmp_path / "archive", keys[0])
    archive.add("trixie", "base", fields="Essential: yes\n")
    archive.add("trixie", "editor")
    archive.publish()
    with faulty(archive.folder) as server:
        yield server


def archives(mirror: Server, site: Site, key: TestKey) -> tuple[ArchiveSpec, ...]:
    public = put_blob_bytes(site.store(), binary_keyring(key.public.read_bytes()), "application/pgp-keys")
    return (ArchiveSpec(uri=mirror.url, suites=("trixie",), components=("main",), key=public),)


def tried(task: Task[..., Any], *arguments: Any, site: Site) -> tuple[int, Any]:
    """How often the task ran, and its result or error; with its own rule of what is tried again, and short pauses."""
    calls = 0
    chosen = task.with_options(retry_delay_seconds=[0.01] * RETRIES, retry_jitter_factor=0.1)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return function(*args, **kwargs)

        return counting

    chosen.fn = counted(chosen.fn)

    ended: list[State[Any]] = []

    @flow(name="tries")
    def tries() -> None:
        ended.append(cast("Any", chosen)(*arguments, site=site, return_state=True))

    tries()
    return calls, ended[0].result(raise_on_failure=False)


def spec_of(found: tuple[ArchiveSpec, ...], *packages: str) -> ToolsSpec:
    return ToolsSpec(architecture="amd64", archives=found, packages=packages)


def unavailable(calls: int) -> list[Fault | None]:
    """Enough for so many runs of a task that downloads one file."""
    return [status(503, retry_after="0")] * (ATTEMPTS * calls)


def test_a_mirror_that_is_overloaded_is_asked_again(mirror: Server, site: Site, keys: tuple[TestKey, TestKey]) -> None:
    mirror.faults.extend(unavailable(2))
    calls, releases = tried(probe_archives, archives(mirror, site, keys[0]), site=site)
    assert calls == 3
    assert releases[0].suite == "trixie"


def test_it_is_given_up_after_three_more_tries(mirror: Server, site: Site, keys: tuple[TestKey, TestKey]) -> None:
    mirror.faults.extend(unavailable(9))
    calls, error = tried(probe_archives, archives(mirror, site, keys[0]), site=site)
    assert calls == 1 + RETRIES
    assert isinstance(error, InfrastructureError)


def test_a_mirror_in_flux_is_waited_for(mirror: Server, site: Site, keys: tuple[TestKey, TestKey]) -> None:
    """Its index is not yet, or no longer, the one of its Release: once other bytes, then none at all."""
    found = archives(mirror, site, keys[0])
    _, releases = tried(probe_archives, found, site=site)
    mirror.faults.extend([*WRONG, status(404)])
    calls, lock = tried(plan_tools, spec_of(found, "editor"), releases, None, site=site)
    assert calls == 3
    assert isinstance(lock, ArtifactRef)


def test_a_signature_of_somebody_else_is_refused_at_once(
    mirror: Server, site: Site, keys: tuple[TestKey, TestKey]
) -> None:
    calls, error = tried(probe_archives, archives(mirror, site, keys[1]), site=site)
    assert calls == 1
    assert isinstance(error, VerificationError)
    assert "signed by" in str(error)


CONFIGURATIONS = {
    "editr": (BuildError, "did you mean"),
    "Editor!": (UsageError, "is not the name of a package"),
}


@pytest.mark.parametrize("package", CONFIGURATIONS)
def test_a_wrong_configuration_is_refused_at_once(
    package: str, mirror: Server, site: Site, keys: tuple[TestKey, TestKey]
) -> None:
    found, (kind, said) = archives(mirror, site, keys[0]), CONFIGURATIONS[package]
    _, releases = tried(probe_archives, found, site=site)
    calls, error = tried(plan_tools, spec_of(found, package), releases, None, site=site)
    assert calls == 1
    assert isinstance(error, kind)
    assert said in str(error)


def test_a_package_with_another_digest_is_refused_at_once(
    mirror: Server, site: Site, keys: tuple[TestKey, TestKey]
) -> None:
    found = archives(mirror, site, keys[0])
    _, releases = tried(probe_archives, found, site=site)
    _, lock = tried(plan_tools, spec_of(found, "editor"), releases, None, site=site)
    mirror.faults.extend(WRONG * 2)
    calls, error = tried(build_tools, lock, site=site)
    assert calls == 1
    assert isinstance(error, VerificationError)


def all_tasks() -> list[Task[..., Any]]:
    modules = [importlib.import_module(f"tasks.{found.name}") for found in pkgutil.iter_modules(tasks.__path__)]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Task)]


def test_every_task_waits_longer_each_time_and_never_as_long_as_others() -> None:
    found = all_tasks()
    assert {"build-rootfs", "publish-build", "boot-test"} < {task.name for task in found}
    for task in found:
        assert task.retries == RETRIES
        assert cast("Any", task.retry_delay_seconds) == [2.0, 4.0, 8.0], task.name
        assert task.retry_jitter_factor
