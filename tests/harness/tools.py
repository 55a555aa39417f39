"""The tools tree for tests: made once of the real archive's packages, for all workers of a run.

`archive` has the same packages, signed by a key of the tests, so that a whole build can be had without the network.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from coreimage.host.process import Run, run
from coreimage.model import PackageLock, ToolsTree
from coreimage.project.loading import load_project
from coreimage.rootfs import (
    build_tools,
    machine_architecture,
    plan_packages,
    probe_archives,
    read_lock,
    tools_run,
    tools_spec,
)
from coreimage.storage import Store, blob_key, open_store
from tests.harness.archive import LocalArchive, TestKey, fetch

ROOT_DIR = Path(__file__).parents[2]
SUITE = "tools"


@dataclass(frozen=True)
class SharedTools:
    """In `folder`: the store that they were made in, the tree unpacked, the archive and its key."""

    folder: Path
    tools: ToolsTree
    local: ToolsTree
    """The same tree, of the lock of `archive`."""

    @property
    def store(self) -> Store:
        return open_store((self.folder / "store").as_uri())

    @property
    def run(self) -> Run:
        return tools_run(self.tools, store=self.store)

    @property
    def lock(self) -> PackageLock:
        return read_lock(self.store, self.tools.lock)

    @property
    def yaml(self) -> str:
        """For a project file: takes the tools from `archive`."""
        archive = f'{{uri: "{(self.folder / "archive").as_uri()}", suites: [{SUITE}], key: "{self.folder}/tools.asc"}}'
        return f"tools:\n  archives: [{archive}]\n"

    def seed(self, store: Path) -> None:
        """Puts the tree of `archive` into a folder's store, as an earlier build would have."""
        own = self.folder / "store"
        for path in (own / self.local.tree.uri, *(own / "tools").glob(f"{self.local.lock.sha256}-*.json")):
            place = store / path.relative_to(own)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                os.link(path, place)


def shared_tools(factory: pytest.TempPathFactory) -> SharedTools:
    """What the first worker made; the others wait for it."""
    own = factory.getbasetemp()
    return made_shared_tools(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


def made_shared_tools(place: Path) -> SharedTools:
    """Those of `place/tools`, made there unless they are."""
    folder = place / "tools"
    folder.mkdir(exist_ok=True)
    record = folder / "made.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            made = _make(folder)
            record.write_text("\n".join(tools.model_dump_json() for tools in made))
        tools, local = map(ToolsTree.model_validate_json, record.read_text().splitlines())
    return SharedTools(folder, tools, local)


def _make(folder: Path) -> tuple[ToolsTree, ToolsTree]:
    tools = made_tools(ROOT_DIR / "deployments/debian-core.yaml", open_store((folder / "store").as_uri()))
    shared = SharedTools(folder, tools, tools)
    _publish(shared)
    (folder / "tools.yaml").write_text((ROOT_DIR / "tests/projects/tiny.yaml").read_text() + shared.yaml)
    return tools, made_tools(folder / "tools.yaml", shared.store)


def made_tools(project: Path, store: Store, by: Run = run) -> ToolsTree:
    """The project's tools, planned and made in `store`; `by` are the programs that the machine has for it."""
    spec = tools_spec(load_project(project), machine_architecture(), store=store)
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    lock = plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=by)
    return build_tools(lock, store=store, fetch=fetch, run=by)


def _publish(shared: SharedTools) -> None:
    home = shared.folder.parent / "gpg-tools"
    key = TestKey.make(home, "tools")
    try:
        archive = LocalArchive(shared.folder / "archive", key, origin="Tools", label="Tools")
        for package in shared.lock.packages:
            deb = shared.folder / f"{package.name}_{package.architecture}.deb"
            os.link(shared.folder / "store" / blob_key(package.sha256), deb)
            archive.add_deb(SUITE, deb)
            deb.unlink()
        archive.publish()
        shutil.copy(key.public, shared.folder / "tools.asc")
    finally:
        key.close()
