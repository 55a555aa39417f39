"""`coreimage channel rename`: give a channel another name."""

from __future__ import annotations

import click

from coreimage.cli.changes import finish_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("old")
@click.argument("new")
@click.option("--redirect/--no-redirect", default=True, help="Leave a redirect, so that devices find the new name.")
@pass_settings
def rename(settings: Settings, old: str, new: str, redirect: bool) -> None:
    """Rename channel OLD to NEW; aliases and redirects to OLD lead to NEW.

    \b
    Example:
      coreimage channel rename debian-core/13/beta debian-core/13/candidate
    """
    from coreimage.system_image import rename_channel  # noqa: PLC0415

    change = rename_channel(settings.channel_tree(), old, new, leave_redirect=redirect)
    finish_change(settings, change, f"channel {old} is {new} now")
