"""`coreimage keys`: the signing keys of this machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.publishing import publishing, show_change
from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.system_image import Medium


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


@keys.command()
@pass_settings
def publish(settings: Settings) -> None:
    """Publish the keyrings that devices trust, where they are missing, of other keys, or near their end.

    \b
    Example:
      coreimage keys publish
    """
    from coreimage.system_image import end_overlaps, publish_keyrings  # noqa: PLC0415

    effects = publishing(settings)
    ended = end_overlaps(settings.keys_folder, store=effects["store"], now=effects["now"])
    published = publish_keyrings(**effects)
    if settings.as_json:
        click.echo(json.dumps({"published": published, "ended": ended}))
    else:
        click.echo(f"published: {', '.join(published)}" if published else "all keyrings are right already")


@keys.command()
@click.argument("role", type=click.Choice(["image-signing", "image-master", "cdimage"]))
@click.option("--overlap-days", type=click.IntRange(1), default=90, show_default=True, help="How long both keys count.")
@pass_settings
def rotate(settings: Settings, role: str, overlap_days: int) -> None:
    """Replace the key of ROLE: tell clients of both, sign with the new one, sign anew what the old one signed.

    Again while both count, it only finishes what is missing.

    \b
    Example:
      coreimage keys rotate image-signing --overlap-days 120
    """
    from coreimage.signing import Role  # noqa: PLC0415
    from coreimage.system_image import rotate_key  # noqa: PLC0415

    effects = publishing(settings)
    done = rotate_key(
        Role(role),
        settings.keys_folder,
        store=effects["store"],
        now=effects["now"],
        overlap=timedelta(days=overlap_days),
    )
    end = f"{datetime.fromtimestamp(done.until or 0, UTC):%Y-%m-%d}"
    show_change(settings, done, f"{role} signs with {done.fingerprint}; the key before it counts until {end}")


@keys.command()
@click.argument("fingerprint")
@click.option(
    "--key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Its public key (a binary export), when it is not in the keys folder.",
)
@pass_settings
def revoke(settings: Settings, fingerprint: str, key: Path | None) -> None:
    """Put a key on the blacklist: clients refuse all that it signed. One that signs now is replaced first.

    \b
    Example:
      coreimage keys revoke 0123456789ABCDEF0123456789ABCDEF01234567
    """
    from coreimage.system_image import revoke_key  # noqa: PLC0415

    effects = publishing(settings)
    done = revoke_key(
        fingerprint.replace(" ", "").upper(),
        settings.keys_folder,
        store=effects["store"],
        now=effects["now"],
        public_key=key.read_bytes() if key else None,
    )
    show_change(settings, done, f"{fingerprint} is revoked; {done.role} signs with {done.fingerprint}")


@keys.command("re-sign")
@pass_settings
def re_sign(settings: Settings) -> None:
    """Renew the end of the channels, and sign anew what is signed by former keys.

    \b
    Example:
      coreimage keys re-sign
    """
    from coreimage.system_image import sign_anew  # noqa: PLC0415

    count = sign_anew(**publishing(settings))
    click.echo(json.dumps({"signed_anew": count}) if settings.as_json else f"{count} signatures made anew")


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
@pass_settings
def backup(settings: Settings, file: Path) -> None:
    """Write all private keys of this machine to FILE, a tar archive that only you can read.

    \b
    Example:
      coreimage keys backup /media/safe/coreimage-keys.tar
    """
    from coreimage.signing import write_backup  # noqa: PLC0415

    roles = write_backup(settings.keys_folder, file)
    names = [role.value for role in roles]
    click.echo(json.dumps({"file": str(file.absolute()), "roles": names}) if settings.as_json else _backup_line(file))


@keys.command("move-masters")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@pass_settings
def move_masters(settings: Settings, folder: Path) -> None:
    """Move the private master keys to FOLDER, to be kept offline; their public halves stay here.

    \b
    Example:
      coreimage keys move-masters /media/masters
    """
    from coreimage import system_image  # noqa: PLC0415

    moved = [role.value for role in system_image.move_masters(settings.keys_folder, folder)]
    if settings.as_json:
        click.echo(json.dumps({"moved": moved, "folder": str(folder.absolute())}))
    else:
        click.echo(f"moved to {folder}: {', '.join(moved) or 'nothing: they are not here'}")


@keys.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@pass_settings
def export_(settings: Settings, folder: Path) -> None:
    """Write the keyrings that a master elsewhere must sign to FOLDER.

    \b
    Example:
      coreimage keys export /media/to-sign
    """
    from coreimage.system_image import export_keyrings  # noqa: PLC0415

    _show_medium(settings, export_keyrings(folder, **publishing(settings)), "to be signed")


@keys.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@pass_settings
def sign(settings: Settings, folder: Path) -> None:
    """Sign what `keys export` wrote to FOLDER, on the machine that has the masters.

    \b
    Example:
      COREIMAGE_KEYS=/media/masters coreimage keys sign /media/to-sign
    """
    from coreimage.signing import GnupgSigner  # noqa: PLC0415
    from coreimage.system_image import sign_keyrings  # noqa: PLC0415

    _show_medium(settings, sign_keyrings(folder, signer=GnupgSigner(settings.keys_folder)), "signed")


@keys.command("import")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@pass_settings
def import_(settings: Settings, folder: Path) -> None:
    """Publish the keyrings in FOLDER that the masters have signed.

    \b
    Example:
      coreimage keys import /media/to-sign
    """
    from coreimage.system_image import import_keyrings  # noqa: PLC0415

    _show_medium(settings, import_keyrings(folder, **publishing(settings)), "published")


def _show_medium(settings: Settings, medium: Medium, what: str) -> None:
    names = ", ".join(medium.keyrings) or "nothing"
    click.echo(medium.model_dump_json() if settings.as_json else f"{what}: {names}")


def _backup_line(file: Path) -> str:
    return f"keys written to {file}: whoever has it can update every device; keep it encrypted, and not on this machine"


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
    from coreimage.signing import GnupgSigner, KeyFolder, Role  # noqa: PLC0415

    keys, signer = KeyFolder(settings.keys_folder), GnupgSigner(settings.keys_folder)
    found = {role.value: signer.fingerprint(role) for role in Role}
    if settings.as_json:
        click.echo(json.dumps(found))
        return
    for role in Role:
        elsewhere = "" if keys.has(role) else "  (its private key is elsewhere)"
        click.echo(f"{role.value:15} {found[role.value]}{elsewhere}")
        for former in keys.overlapping(role):
            end = f"{datetime.fromtimestamp(former.until or 0, UTC):%Y-%m-%d}"
            click.echo(f"{'':15} {former.fingerprint}  (counts beside it until {end})")
