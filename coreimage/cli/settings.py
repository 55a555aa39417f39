"""What the global options say, and what follows where they say nothing."""

from __future__ import annotations

import functools
import importlib.resources
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

_PROJECT = "debian-core.yaml"


@dataclass(frozen=True)
class Settings:
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
        """The one named, else `deployments/debian-core.yaml` here, else the one that is installed with us."""
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
        """What the cache of downloads may take."""
        from coreimage.budget import parse_size  # noqa: PLC0415

        return parse_size(os.environ.get("COREIMAGE_CACHE_SIZE", "4G"))

    @property
    def log_level(self) -> int:
        if self.debug:
            return logging.DEBUG
        return logging.WARNING if self.quiet else logging.INFO

    def devices_of(self, channel: str) -> tuple[str, ...]:
        """The channel's devices by the project file. Raises UsageError for one that is not in it, with a near miss."""
        from coreimage.config import load_project  # noqa: PLC0415
        from coreimage.errors import NotFoundError, UsageError  # noqa: PLC0415

        try:
            return load_project(self.project_file).channel(channel).devices
        except NotFoundError as error:
            raise UsageError(error.problem, where=str(self.project_file), resolution=error.resolution) from error

    def delta_bases(self, channel: str, said: int | None = None) -> int:
        """From how many versions a new one of the channel gets deltas: what was said, else by the project file."""
        from coreimage.config import load_project  # noqa: PLC0415

        if said is not None:
            return said
        return load_project(self.project_file).delta_bases(channel)

    def state(self, name: str) -> Path:
        """A folder of what is kept between commands, below the working directory."""
        return Path("var", name).absolute()


def pass_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hands a command its settings, and shows log lines as they say."""

    @click.pass_obj
    @functools.wraps(command)
    def with_settings(settings: Settings, *arguments: Any, **options: Any) -> Any:
        from coreimage import logs  # noqa: PLC0415

        logs.show(settings.log_level)
        return command(settings, *arguments, **options)

    return with_settings
