"""`coreimage keys`: the signing keys of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from coreimage.cli.settings import Settings, pass_settings


@click.group()
def keys() -> None:
    """The keys that sign builds and channels.

    \b
    Example:
      coreimage keys init
    """


@keys.command()
@pass_settings
def init(settings: Settings) -> None:
    """Make the keys that are not there yet.

    \b
    Example:
      COREIMAGE_KEYS=/srv/keys coreimage keys init
    """
    make_keys(settings.keys_folder)
    _show(settings)


@keys.command()
@pass_settings
def show(settings: Settings) -> None:
    """List the keys: role and fingerprint.

    \b
    Example:
      coreimage --json keys show
    """
    _show(settings)


def make_keys(folder: Path) -> None:
    """Makes the keys that `folder` lacks, and says so: whoever loses them can never update a device again."""
    from coreimage.signing import create_keys  # noqa: PLC0415

    made = create_keys(folder)
    if not made:
        return
    roles = ", ".join(role.value for role in made)
    click.echo(f"Made signing keys in {folder}: {roles}", err=True)
    click.echo("  Back it up: without it devices cannot be updated; whoever has it can update them", err=True)


def _show(settings: Settings) -> None:
    from coreimage.signing import GnupgSigner, Role  # noqa: PLC0415

    signer = GnupgSigner(settings.keys_folder)
    found = {role.value: signer.fingerprint(role) for role in Role}
    click.echo(json.dumps(found) if settings.as_json else "\n".join(f"{role:15} {key}" for role, key in found.items()))
