"""The global options of a command line, and what follows from them and from the environment."""

from __future__ import annotations

import functools
import importlib.resources
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreimage.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from coreimage.operations.tree_source import TreeSource
    from coreimage.project.config import Project
    from coreimage.storage import Store
    from coreimage.system_image.server import ChannelTree

_PROJECT = "debian-core.yaml"


@dataclass(frozen=True)
class Settings:
    """The global options of one command line: its store and project, and how it reports."""

    store: str | None
    project: Path | None
    as_json: bool
    debug: bool
    quiet: bool

    @property
    def store_url(self) -> str:
        return self.store or self.state("store").as_uri()

    @property
    def project_file(self) -> Path:
        """The project file: the one named, else `deployments/debian-core.yaml` here, else the one of coreimage."""
        here = Path("deployments", _PROJECT).absolute()
        if self.project or here.is_file():
            return (self.project or here).absolute()
        return Path(str(importlib.resources.files("deployments") / _PROJECT))

    @property
    def keys_folder(self) -> Path:
        named = os.environ.get("COREIMAGE_KEYS")
        return Path(named).absolute() if named else self.state("keys")

    @property
    def cache_bytes(self) -> int:
        """How many bytes the cache of downloads may take."""
        from coreimage.model import size_bytes  # noqa: PLC0415

        return size_bytes(os.environ.get("COREIMAGE_CACHE_SIZE", "4G"), "COREIMAGE_CACHE_SIZE")

    @property
    def log_level(self) -> int:
        if self.debug:
            return logging.DEBUG
        return logging.WARNING if self.quiet else logging.INFO

    def state(self, name: str) -> Path:
        """Return the folder below the working directory where something is kept between commands."""
        return Path("var", name).absolute()

    @functools.cached_property
    def opened_store(self) -> Store:
        """The store, opened once: a client of S3 takes a second to make."""
        from coreimage.storage import open_store  # noqa: PLC0415

        return open_store(self.store_url)

    def open_store_to_write(self) -> Store:
        """Open the store and check its format, which marks a fresh one as ours.

        Raises:
            UsageError: The store is one of a newer coreimage.
        """
        from coreimage.storage import require_format  # noqa: PLC0415

        require_format(self.opened_store)
        return self.opened_store

    def channel_tree(self) -> ChannelTree:
        """Open the channels of the store, to be changed and signed by the keys of this machine.

        Raises:
            UsageError: The store is one of a newer coreimage.
        """
        from datetime import UTC, datetime  # noqa: PLC0415

        from coreimage.signing import GnupgSigner  # noqa: PLC0415
        from coreimage.system_image.server import ChannelTree  # noqa: PLC0415

        return ChannelTree(self.open_store_to_write(), GnupgSigner(self.keys_folder), lambda: datetime.now(UTC))

    def own_tree(self) -> TreeSource:
        """Return the channels of the store as a tree to read, trusted by the store's own keyring."""
        from coreimage.operations.tree_source import TreeSource  # noqa: PLC0415

        return TreeSource(self.store_url, self.state("servers"))

    def load_project(self) -> Project:
        """Load the project file.

        Raises:
            ConfigError: Everything that is wrong in it.
        """
        from coreimage.project.loading import load_project  # noqa: PLC0415

        return load_project(self.project_file)

    def project_with(self, channel: str) -> Project:
        """Load the project file, which must have a channel.

        Raises:
            UsageError: It does not have the channel; the message names a near miss.
        """
        project = self.load_project()
        with self._usage_errors():
            project.channel(channel)
        return project

    def devices_of(self, channel: str, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the devices of a channel that a command is about, in the channel's order.

        Args:
            channel: A channel of the project file.
            chosen: The devices that the command line names; empty for all of the channel.

        Raises:
            UsageError: The project has no such channel, or the channel no such device.
        """
        project = self.load_project()
        with self._usage_errors():
            return project.devices_of(channel, chosen)

    @contextmanager
    def _usage_errors(self) -> Iterator[None]:
        """Raise a NotFoundError of the block as a UsageError: the command line named what the project does not have."""
        try:
            yield
        except NotFoundError as error:
            raise UsageError(error.problem, where=str(self.project_file), resolution=error.resolution) from error

    def delta_bases(self, channel: str, option: int | None) -> int:
        """Return from how many older versions a new one of the channel gets deltas: the option, else the project's."""
        return self.load_project().delta_bases(channel) if option is None else option


def pass_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command to get the settings first, and to show log lines as the global options want them."""

    @click.pass_obj
    @functools.wraps(command)
    def with_settings(settings: Settings, *arguments: Any, **options: Any) -> Any:
        from coreimage import logs  # noqa: PLC0415

        logs.show(settings.log_level)
        return command(settings, *arguments, **options)

    return with_settings
