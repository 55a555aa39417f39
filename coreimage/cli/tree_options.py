"""The options that say which system-image tree a command reads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from coreimage.cli.settings import Settings

keyring_option = click.option(
    "--keyring",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The archive-master.tar.xz keyring to trust.",
)
legacy_option = click.option(
    "--legacy", is_flag=True, help="Believe a server of 2015, which cannot tell old channels from new ones."
)


def tree_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with `--server`, `--keyring` and `--legacy`; it gets what they say as `source`."""

    @click.option("--server", metavar="URL|DIR", help="Web root of a system-image tree [the store's].")
    @keyring_option
    @legacy_option
    @functools.wraps(command)
    def with_source(*arguments: Any, server: str | None, keyring: Path | None, legacy: bool, **options: Any) -> Any:
        settings: Settings = click.get_current_context().obj
        source = replace(settings.own_tree(), server=server, keyring=keyring, legacy=legacy)
        return command(*arguments, source=source, **options)

    return with_source
