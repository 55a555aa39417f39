"""What several commands on signing keys share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from coreimage.cli.settings import Settings
    from coreimage.system_image import Medium


def make_missing_keys_of(settings: Settings) -> None:
    """Make the signing keys that are missing, unless the store has an archive-master that is not among them: then new
    keys would only hide that the store's keys are elsewhere.

    Raises:
        UsageError: The store has another archive-master than this machine, or this machine has none.
    """
    from coreimage.signing import GnupgSigner, KeyFolder, Role  # noqa: PLC0415
    from coreimage.system_image import archive_masters_of, foreign_store, require_own_store  # noqa: PLC0415

    folder, store = settings.keys_folder, settings.opened_store
    if KeyFolder(folder).knows(Role.ARCHIVE_MASTER):
        require_own_store(store, GnupgSigner(folder))
    elif owners := archive_masters_of(store):
        raise foreign_store(store, owners, "")
    make_missing_keys(folder)


def make_missing_keys(folder: Path) -> None:
    """Make the signing keys that a folder lacks, and tell whoever made them to back them up."""
    from coreimage.signing import create_keys  # noqa: PLC0415

    roles = ", ".join(role.value for role in create_keys(folder))
    if roles:
        click.echo(f"Made signing keys in {folder}: {roles}", err=True)
        click.echo(
            f"  Back up the folder {folder}: losing these keys means that devices can never be updated again, and "
            "anyone who has them can sign updates",
            err=True,
        )


def show_medium(settings: Settings, medium: Medium, done: str) -> None:
    """Show what was done with the keyrings in a folder that goes to or comes from the machine with the masters."""
    keyrings = ", ".join(medium.keyrings) or "nothing"
    click.echo(medium.model_dump_json() if settings.as_json else f"{done}: {keyrings}")
