"""`coreimage channel alias`: let a name follow a channel."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("name")
@click.argument("target")
@pass_settings
def alias(settings: Settings, name: str, target: str) -> None:
    """Let NAME follow channel TARGET: its devices keep the name, and get what TARGET has.

    An alias that exists gets the new target; its devices then install the target's version whole.

    \b
    Example:
      coreimage channel alias debian-core/stable debian-core/13/stable
    """
    from coreimage.system_image import alias_channel  # noqa: PLC0415

    change = alias_channel(settings.channel_tree(), name, target)
    finish_change(settings, change, f"channel {name} follows {target}")
