"""`coreimage keys show`: list the signing keys."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from coreimage.cli.settings import Settings, pass_settings


@click.command()
@pass_settings
def show(settings: Settings) -> None:
    """List the keys: role and fingerprint.

    \b
    Example:
      coreimage --json keys show
    """
    show_keys(settings)


def show_keys(settings: Settings) -> None:
    """Print the fingerprint of each role's key, and of former keys that still count."""
    from coreimage.signing import GnupgSigner, KeyFolder, Role  # noqa: PLC0415

    folder, signer = KeyFolder(settings.keys_folder), GnupgSigner(settings.keys_folder)
    fingerprints = {role.value: signer.fingerprint(role) for role in Role}
    if settings.as_json:
        click.echo(json.dumps(fingerprints))
        return
    for role in Role:
        elsewhere = "" if folder.has(role) else "  (its private key is elsewhere)"
        click.echo(f"{role.value:15} {fingerprints[role.value]}{elsewhere}")
        for former in folder.overlapping(role):
            end = f"{datetime.fromtimestamp(former.until or 0, UTC):%Y-%m-%d}"
            click.echo(f"{'':15} {former.fingerprint}  (counts beside it until {end})")
