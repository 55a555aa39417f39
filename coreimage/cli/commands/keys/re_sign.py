"""`coreimage keys re-sign`: renew the signatures."""

from __future__ import annotations

import json

import click

from coreimage.cli.settings import Settings, pass_settings


@click.command("re-sign")
@pass_settings
def re_sign(settings: Settings) -> None:
    """Move the end of the channels document on, and sign anew what former keys signed.

    \b
    Example:
      coreimage keys re-sign
    """
    from coreimage.system_image import sign_anew  # noqa: PLC0415

    count = sign_anew(settings.channel_tree())
    click.echo(json.dumps({"signed_anew": count}) if settings.as_json else f"{count} signatures made anew")
