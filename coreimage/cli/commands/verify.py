"""`coreimage verify`: what is wrong with a published tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.settings import Settings, pass_settings
from coreimage.cli.tree_options import keyring_option, legacy_option
from coreimage.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from coreimage.system_image import Findings


@click.command()
@click.argument("tree", required=False, metavar="[URL|DIR]")
@keyring_option
@legacy_option
@click.option("--repair", is_flag=True, help="Make documents and signatures that a kill left torn agree again, first.")
@pass_settings
def verify(settings: Settings, tree: str | None, keyring: Path | None, legacy: bool, repair: bool) -> None:
    """Check every signature, digest, size and reference of the store, or of the system-image tree at URL or DIR.

    Ends with status 3 when a client would refuse something.

    \b
    Example:
      coreimage verify
      coreimage verify https://images.example.com --keyring archive-master.tar.xz
      coreimage verify https://system-image.example.org --keyring archive-master.tar.xz --legacy
    """
    if tree is None:
        findings = _verify_store(settings, keyring, legacy=legacy, repair=repair)
    elif repair:
        raise UsageError("only the own store can be repaired", where=tree, resolution="name the store with --store")
    else:
        findings = _verify_web(tree, keyring, legacy=legacy)
    click.echo(findings.model_dump_json() if settings.as_json else report(findings))
    if findings.errors:
        click.get_current_context().exit(VerificationError.exit_status)


def _verify_store(settings: Settings, keyring: Path | None, *, legacy: bool, repair: bool) -> Findings:
    """Verify the own store, also the builds below cdimage/ where the public half of their key is at hand."""
    from coreimage.operations.tree_source import store_keyring  # noqa: PLC0415
    from coreimage.signing import GnupgSigner, Role  # noqa: PLC0415
    from coreimage.system_image import repair_tree, verify_store  # noqa: PLC0415

    store = settings.opened_store
    archive_master = keyring.read_bytes() if keyring else store_keyring(store)
    if repair:
        repair_tree(settings.channel_tree())
    has_key = (settings.keys_folder / Role.CDIMAGE.value).is_dir()
    cdimage_key = GnupgSigner(settings.keys_folder).public_key(Role.CDIMAGE) if has_key else None
    return verify_store(store, archive_master, cdimage_key=cdimage_key, legacy=legacy)


def _verify_web(tree: str, keyring: Path | None, *, legacy: bool) -> Findings:
    from coreimage.http import Downloader  # noqa: PLC0415
    from coreimage.operations.tree_source import server_keyring  # noqa: PLC0415
    from coreimage.system_image import verify_web  # noqa: PLC0415

    where: str | Path = tree if "://" in tree else Path(tree)
    if isinstance(where, Path) and not where.is_dir():
        raise UsageError("is neither a folder nor a URL", where=tree, resolution="name the web root of a tree")
    return verify_web(where, server_keyring(tree, keyring), fetch=Downloader(), legacy=legacy)


def report(findings: Findings) -> str:
    """Return one paragraph per finding, then how much was checked."""
    lines = [f"{each.severity}: {each.where}: {each.problem}\n  → {each.resolution}" for each in findings.findings]
    lines += [f"waiting: {each.channel} for {each.device}: candidate {each.version}" for each in findings.candidates]
    if findings.orphans:
        lines.append(f"{len(findings.orphans)} objects that nothing names: harmless, but they take space")
    verdict = f"{len(findings.errors)} of them refused" if findings.errors else "all as signed"
    return "\n".join([*lines, f"{findings.checked} objects checked, {verdict}"])
