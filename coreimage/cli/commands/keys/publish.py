"""`coreimage keys publish`: publish the keyrings that devices trust."""

from __future__ import annotations

import json

import click

from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.option(
    "--replace-archive-master",
    "replaced",
    metavar="FINGERPRINT",
    default="",
    help="The store's archive-master, which yours replaces: devices that trust only it get no updates any more.",
)
@pass_settings
def publish(settings: Settings, replaced: str) -> None:
    """Publish the keyrings that are missing, hold other keys than ours, or come near their end.

    A store that has another archive-master than you is refused.

    \b
    Example:
      coreimage keys publish
    """
    from coreimage.system_image import end_overlaps, publish_keyrings, require_own_store  # noqa: PLC0415

    tree, replaced = settings.channel_tree(), replaced.replace(" ", "").upper()
    require_own_store(tree.store, tree.signer, replaced=replaced)
    ended = end_overlaps(tree, settings.keys_folder)
    published = publish_keyrings(tree, replaced=replaced)
    if settings.as_json:
        click.echo(json.dumps({"published": published, "ended": ended}))
    else:
        click.echo(f"published: {', '.join(published)}" if published else "all keyrings are right already")
