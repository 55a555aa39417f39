"""What `coreimage pin` and `coreimage unpin` share: the options for a build or a version, and the output."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.changes import show_outcome
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.cli.settings import Settings


def build_or_version_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with the options that name a published build, or a version of a device."""
    device = click.option("--device", metavar="D", help="The device of the version.")
    version = click.option("--version", type=int, metavar="N", help="A version of the device.")
    build = click.option("--build", metavar="ID", help="A published build, such as 20261123.1.")
    return build(device(version(command)))


def not_one_of_both() -> UsageError:
    """Return the error for options that name neither a build nor a version, or both."""
    return UsageError(
        "neither a build nor a version is named, or both are",
        resolution="name a --build, or a --device and its --version",
    )


def show_build_change(settings: Settings, channel: str, build: str, sentence: str, *, changed: bool) -> None:
    """Print the change of a build as JSON, or `sentence` and whether it held already."""
    document = json.dumps({"changed": changed, "channel": channel, "build_id": build})
    show_outcome(settings, document, sentence, changed=changed)
