"""What commands that change the tree share: the store, the keys and the clock; and how a change is told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.model import Value


device_option = click.option("--device", required=True, metavar="D", help="Which device.")
phase_option = click.option(
    "--phase", type=click.IntRange(0, 100), metavar="P", help="Offer it to P percent of the devices only."
)

delta_bases_option = click.option(
    "--delta-bases",
    type=click.IntRange(0, 20),
    metavar="N",
    help="Make deltas from the channel's N newest versions; 0: none [what the project file says].",
)


def of_device(command: Callable[..., Any]) -> Callable[..., Any]:
    """The two arguments that say which device of which channel a command is about."""
    return click.argument("channel")(click.argument("name")(pass_settings(command)))


def to_target(command: Callable[..., Any]) -> Callable[..., Any]:
    """The two arguments that say which channel follows or leads to which."""
    return click.argument("name")(click.argument("target")(command))


def publishing(settings: Settings) -> dict[str, Any]:
    """The keyword arguments `store`, `signer` and `now` of every operation on the tree.

    Raises UsageError for the store of a newer coreimage.
    """
    from coreimage.signing import GnupgSigner  # noqa: PLC0415
    from coreimage.storage import open_store, require_format  # noqa: PLC0415

    store = open_store(settings.store_url)
    require_format(store)
    return {"store": store, "signer": GnupgSigner(settings.keys_folder), "now": lambda: datetime.now(UTC)}


def show_change(settings: Settings, change: Value, sentence: str) -> None:
    """One line, or the value as JSON, and the pages of the channel that changed. `sentence` is said of what was so
    already too."""
    channel = getattr(change, "channel", "")
    if channel and getattr(change, "changed", False):
        from coreimage.pages import write_pages  # noqa: PLC0415
        from coreimage.storage import open_store  # noqa: PLC0415

        write_pages(store=open_store(settings.store_url), channels=[channel], trees=[])
    if settings.as_json:
        click.echo(change.model_dump_json())
    else:
        click.echo(sentence if getattr(change, "changed", True) else f"{sentence}: it was so already")
