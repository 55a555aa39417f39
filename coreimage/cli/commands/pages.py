"""`coreimage pages`: write the pages for people."""

from __future__ import annotations

import json

import click

from coreimage.cli.settings import Settings, pass_settings


@click.command()
@pass_settings
def pages(settings: Settings) -> None:
    """Write all pages for people anew: channels, devices, builds.

    Commands and builds write the pages of what they change. This is for a store that was changed by hand, and for one
    that never had pages.

    \b
    Example:
      coreimage pages
      coreimage serve
    """
    from coreimage.pages import write_pages  # noqa: PLC0415

    count = write_pages(store=settings.open_store_to_write())
    click.echo(json.dumps({"pages": count}) if settings.as_json else f"{count} pages; the first is index.html")
