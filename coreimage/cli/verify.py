"""`coreimage verify`: what is wrong with a published tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.server import own_keyring, trusted
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from coreimage.storage import Store
    from coreimage.system_image import Findings


@click.command()
@click.argument("tree", required=False, metavar="[URL|DIR]")
@click.option("--keyring", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Whom to trust.")
@click.option("--repair", is_flag=True, help="Make documents and signatures that a kill left torn agree again, first.")
@pass_settings
def verify(settings: Settings, tree: str | None, keyring: Path | None, repair: bool) -> None:
    """Check every signature, digest, size and reference of the store, or of the system-image tree at URL or DIR.

    Ends with status 3 when a client would refuse something.

    \b
    Example:
      coreimage verify
      coreimage verify https://images.example.com --keyring archive-master.tar.xz
    """
    from coreimage.storage import open_store  # noqa: PLC0415

    if tree is None:
        found = _of_store(settings, open_store(settings.store_url), keyring, repair=repair)
    elif repair:
        raise UsageError("only the own store can be repaired", where=tree, resolution="name it with --store")
    else:
        found = _of_web(tree, keyring)
    click.echo(found.model_dump_json() if settings.as_json else report(found))
    if found.errors:
        click.get_current_context().exit(VerificationError.exit_status)


def _of_store(settings: Settings, store: Store, keyring: Path | None, *, repair: bool) -> Findings:
    """The builds below cdimage/ too, where their key is at hand."""
    from coreimage.signing import GnupgSigner, Role  # noqa: PLC0415
    from coreimage.system_image import repair_tree, verify_store  # noqa: PLC0415

    archive_master = keyring.read_bytes() if keyring else own_keyring(store)
    signer = GnupgSigner(settings.keys_folder)
    if repair:
        repair_tree(store=store, signer=signer)
    key = signer.public_key(Role.CDIMAGE) if (settings.keys_folder / Role.CDIMAGE.value).is_dir() else None
    return verify_store(store, archive_master, cdimage_key=key)


def _of_web(tree: str, keyring: Path | None) -> Findings:
    from coreimage.http import Downloader  # noqa: PLC0415
    from coreimage.system_image import verify_web  # noqa: PLC0415

    where: str | Path = tree if "://" in tree else Path(tree)
    if isinstance(where, Path) and not where.is_dir():
        raise UsageError("is neither a folder nor a URL", where=tree, resolution="name the web root of a tree")
    return verify_web(where, trusted(tree, keyring), fetch=Downloader())


def report(found: Findings) -> str:
    """One paragraph per finding, then what was looked at."""
    lines = [f"{each.severity}: {each.where}: {each.problem}\n  → {each.resolution}" for each in found.findings]
    lines += [f"waiting: {each.channel} for {each.device}: candidate {each.version}" for each in found.candidates]
    if found.orphans:
        lines.append(f"{len(found.orphans)} objects that nothing names: harmless, but they take space")
    verdict = f"{len(found.errors)} of them refused" if found.errors else "all as signed"
    return "\n".join([*lines, f"{found.checked} objects checked, {verdict}"])
