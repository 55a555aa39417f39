"""The end of a command that changes something: it writes the pages that show the change, and prints the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from coreimage.cli.settings import Settings
    from coreimage.system_image import Change, Rotation


def finish_change(settings: Settings, change: Change, sentence: str) -> None:
    """Write the pages of a channel that changed, and show the change.

    Args:
        settings: The settings of the command.
        change: The change that the operation returned.
        sentence: What holds now, whether or not it held before.
    """
    if change.changed:
        from coreimage.pages import write_pages  # noqa: PLC0415

        write_pages(store=settings.opened_store, channels=[change.channel], trees=[])
    show_change(settings, change, sentence)


def show_change(settings: Settings, change: Change | Rotation, sentence: str) -> None:
    """Print the change as JSON, or `sentence` and whether it held already."""
    show_outcome(settings, change.model_dump_json(), sentence, changed=change.changed)


def show_outcome(settings: Settings, document: str, sentence: str, *, changed: bool) -> None:
    """Print a JSON document, or for people `sentence` and whether it held already."""
    if settings.as_json:
        click.echo(document)
    else:
        click.echo(sentence if changed else f"{sentence}: nothing to change")
