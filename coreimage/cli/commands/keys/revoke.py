"""`coreimage keys revoke`: put a key on the blacklist."""

from __future__ import annotations

from pathlib import Path

import click

from coreimage.cli.changes import show_change
from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.argument("fingerprint")
@click.option(
    "--key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Its public key (a binary export), when it is not in the keys folder.",
)
@pass_settings
def revoke(settings: Settings, fingerprint: str, key: Path | None) -> None:
    """Put a key on the blacklist: clients refuse all that it signed. A key that signs now is replaced first.

    \b
    Example:
      coreimage keys revoke 0123456789ABCDEF0123456789ABCDEF01234567
    """
    from coreimage.system_image import revoke_key  # noqa: PLC0415

    rotation = revoke_key(
        settings.channel_tree(),
        fingerprint.replace(" ", "").upper(),
        settings.keys_folder,
        public_key=key.read_bytes() if key else None,
    )
    show_change(settings, rotation, f"{fingerprint} is revoked; {rotation.role} signs with {rotation.fingerprint}")
