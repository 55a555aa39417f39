"""`coreimage pages`: the pages for people, all of them."""

from __future__ import annotations

import json

import click

from coreimage.cli.settings import Settings, pass_settings


@click.command()
@pass_settings
def pages(settings: Settings) -> None:
    """Write all pages for people anew: channels, devices, builds.

    Builds write what they change by themselves. After changes by hand, and for a tree that never had any, this does it.

    \b
    Example:
      coreimage pages
      coreimage serve
    """
    from coreimage.pages import write_pages  # noqa: PLC0415
    from coreimage.storage import open_store, require_format  # noqa: PLC0415

    store = open_store(settings.store_url)
    require_format(store)
    written = write_pages(store=store)
    click.echo(json.dumps({"pages": written}) if settings.as_json else f"{written} pages; the first is index.html")
