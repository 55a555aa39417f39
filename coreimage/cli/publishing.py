"""What commands that change the tree share: the store, the keys and the clock; and how a change is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.settings import Settings

if TYPE_CHECKING:
    from coreimage.model import Value


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
    """One line, or the value as JSON. `sentence` is said of what was so already too."""
    if settings.as_json:
        click.echo(change.model_dump_json())
    else:
        click.echo(sentence if getattr(change, "changed", True) else f"{sentence}: it was so already")
