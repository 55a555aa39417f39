"""Where a run works: its store and its keys, by name. A value without secrets, so that it may be a task's parameter."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import structlog

from coreimage.http import Downloader, Fetch
from coreimage.model import ToolsTree, Value
from coreimage.process import Run
from coreimage.rootfs import Offline, tools_run
from coreimage.signing import GnupgSigner, Signer
from coreimage.storage import Store, open_store

PROJECT, STORE, KEYS = "COREIMAGE_PROJECT", "COREIMAGE_STORE", "COREIMAGE_KEYS"
"""Environment variables of a worker: what a run works with unless its parameters say otherwise."""

DEFAULT_PROJECT = "deployments/debian-core.yaml"


def named(value: str, variable: str, default: str) -> str:
    """The value, else the variable's, else the default."""
    return value or os.environ.get(variable, "") or default


def now() -> datetime:
    return datetime.now(UTC)


@cache
def known_store(url: str) -> Store:
    """One store per URL and process: opening S3 costs a second on a busy core, and a run asks a hundred times."""
    return open_store(url)


class Site(Value):
    """`store_url` as `--store` takes it; `keys_folder` holds the signing keys, on the machine that runs the task."""

    store_url: str
    keys_folder: str
    channel: str = ""
    """What is being built: a step that runs is compared with its last run for the same channel."""
    offline: bool = False
    """Nothing is downloaded: what is not in the store is missing."""

    @classmethod
    def here(cls, *, store_url: str = "", keys_folder: str = "", channel: str = "", offline: bool = False) -> Site:
        """What is not said is the worker's own."""
        return cls(
            store_url=named(store_url, STORE, "var/store"),
            keys_folder=named(keys_folder, KEYS, "var/keys"),
            channel=channel,
            offline=offline,
        )

    def store(self) -> Store:
        return known_store(self.store_url)

    def fetch(self) -> Fetch:
        return Offline() if self.offline else Downloader()

    def run(self, tools: ToolsTree) -> Run:
        """Runs the programs of a tools tree, which is unpacked on this machine first if need be."""
        return tools_run(tools, store=self.store())

    def signer(self) -> Signer:
        return GnupgSigner(Path(self.keys_folder))


def live_lines(program: str) -> Callable[[str], None]:
    """Sends each line of a child's output to the run's log as it comes."""
    return structlog.get_logger(f"coreimage.{program}").info  # type: ignore[no-any-return]
