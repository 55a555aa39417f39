"""Groups whose commands are the modules of a package: a new file is a new command; only what is run is imported."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import click


class CommandFolder(click.Group):
    """A group that has the commands of one package.

    Each module holds one command (or group) under the module's own name. Dashes are underscores there, and a name that
    Python has already ends with one: `re_sign` is `re-sign`, `import_` is `import`.
    """

    def __init__(self, *arguments: Any, package: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._package = package

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(self._modules())

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        module = self._modules().get(name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"{self._package}.{module}"), module)
        return command

    def _modules(self) -> dict[str, str]:
        """Return the module of each command by the command's name."""
        folder = importlib.import_module(self._package).__path__
        return {name.rstrip("_").replace("_", "-"): name for _, name, _ in pkgutil.iter_modules(folder)}
