"""The site of a run: its store and its keys, by name. It holds no secrets, so that it may be a task's parameter."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import structlog

from coreimage.host.process import Run
from coreimage.http import Downloader, Fetch
from coreimage.model import ToolsTree, Value
from coreimage.project.bundle import open_project
from coreimage.project.config import Project
from coreimage.rootfs import Offline, tools_run
from coreimage.signing import GnupgSigner, Signer
from coreimage.storage import Store, open_store
from coreimage.system_image.server import ChannelTree

PROJECT, STORE, KEYS = "COREIMAGE_PROJECT", "COREIMAGE_STORE", "COREIMAGE_KEYS"
"""Environment variables of a worker with the defaults of its runs."""

_DEFAULT_PROJECT = "deployments/debian-core.yaml"


def now() -> datetime:
    return datetime.now(UTC)


@cache
def known_store(url: str) -> Store:
    """Open a store, once per process: opening S3 takes a second on a busy core, and a run asks a hundred times."""
    return open_store(url)


class Site(Value):
    """The place where a run works: a store, named as `--store` takes it, and the machine that runs a task.

    `keys_folder` holds the signing keys, on that machine. `channel` is what is being built: a task that runs is
    compared with its last run for the same channel. With `offline`, nothing is downloaded: what is not in the store is
    missing.
    """

    store_url: str
    keys_folder: str
    channel: str = ""
    offline: bool = False

    @classmethod
    def here(cls, *, store_url: str = "", keys_folder: str = "", channel: str = "", offline: bool = False) -> Site:
        """Return the site of this worker, whose environment fills in what is empty."""
        return cls(
            store_url=_named(store_url, STORE, "var/store"),
            keys_folder=_named(keys_folder, KEYS, "var/keys"),
            channel=channel,
            offline=offline,
        )

    def store(self) -> Store:
        return known_store(self.store_url)

    def project(self, project_file: str = "") -> Project:
        """Open a project.

        Args:
            project_file: A path, or `store:…` for one in the store; empty for the worker's own.
        """
        return open_project(_named(project_file, PROJECT, _DEFAULT_PROJECT), store=self.store())

    def fetch(self) -> Fetch:
        """Return the downloader; offline, one that refuses every download."""
        return Offline() if self.offline else Downloader()

    def run(self, tools: ToolsTree) -> Run:
        """Return the runner of the programs of a tools tree, after unpacking the tree on this machine if need be."""
        return tools_run(tools, store=self.store())

    def channel_tree(self) -> ChannelTree:
        """Return the channels of the store, signed by the keys of the machine that runs the task."""
        return ChannelTree(self.store(), self.signer(), now)

    def signer(self) -> Signer:
        return GnupgSigner(Path(self.keys_folder))


def _named(value: str, variable: str, default: str) -> str:
    return value or os.environ.get(variable, "") or default


def live_lines(program: str) -> Callable[[str], None]:
    """Return a function that sends a line of a program's output to the run's log."""
    return structlog.get_logger(f"coreimage.{program}").info  # type: ignore[no-any-return]
