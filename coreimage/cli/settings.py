"""What the global options say, and what follows where they say nothing."""

from __future__ import annotations

import importlib.resources
import logging
import os
from dataclasses import dataclass
from pathlib import Path

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
    def log_level(self) -> int:
        if self.debug:
            return logging.DEBUG
        return logging.WARNING if self.quiet else logging.INFO

    def state(self, name: str) -> Path:
        """A folder of what is kept between commands, below the working directory."""
        return Path("var", name).absolute()
