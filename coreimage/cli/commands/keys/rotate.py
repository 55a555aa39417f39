"""`coreimage keys rotate`: replace a signing key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from coreimage.cli.changes import show_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("role", type=click.Choice(["image-signing", "image-master", "cdimage"]))
@click.option("--overlap-days", type=click.IntRange(1), default=90, show_default=True, help="How long both keys count.")
@pass_settings
def rotate(settings: Settings, role: str, overlap_days: int) -> None:
    """Replace the key of ROLE: publish both keys, sign with the new one, sign anew what the old one signed.

    Run again while both keys count, it only finishes what is missing.

    \b
    Example:
      coreimage keys rotate image-signing --overlap-days 120
    """
    from coreimage.signing import Role  # noqa: PLC0415
    from coreimage.system_image import rotate_key  # noqa: PLC0415

    overlap = timedelta(days=overlap_days)
    rotation = rotate_key(settings.channel_tree(), Role(role), settings.keys_folder, overlap=overlap)
    end = f"{datetime.fromtimestamp(rotation.until or 0, UTC):%Y-%m-%d}"
    show_change(settings, rotation, f"{role} signs with {rotation.fingerprint}; the key before it counts until {end}")
