"""`coreimage lock diff`: what differs between two locks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.locks import as_json, difference_lines
from coreimage.cli.options import devices_option
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from coreimage.model import PackageLock
    from coreimage.operations.locks import Part


@click.command()
@click.argument("old")
@click.argument("new")
@click.option("--channel", help="Whose locks and builds are meant.")
@devices_option
@pass_settings
def diff(settings: Settings, old: str, new: str, channel: str | None, devices: tuple[str, ...]) -> None:
    """Tell what differs between two locks: packages, archives, tools, configuration.

    OLD and NEW are files, or, of a --channel, `current`, `previous` or build ids.

    \b
    Example:
      coreimage lock diff 20261123 current --channel debian-core/13/edge
    """
    from coreimage.operations.locks import channel_parts  # noqa: PLC0415
    from coreimage.rootfs.lock_diff import lock_diff  # noqa: PLC0415

    parts = channel_parts(settings.load_project(), channel, devices) if channel else ()
    before, after = _locks(settings, old, parts), _locks(settings, new, parts)
    if Path(old).is_file() or Path(new).is_file():
        before, after = _only_lock(before, old), _only_lock(after, new)
    common = [name for name in after if name in before]
    if not common:
        raise NotFoundError(f"{old} and {new} have no part in common", where=channel or "")
    differences = {name: lock_diff(before[name], after[name]) for name in common}
    paragraphs = [difference_lines(name, difference) for name, difference in differences.items()]
    click.echo(as_json(differences) if settings.as_json else "\n".join(paragraphs))


def _locks(settings: Settings, word: str, parts: tuple[Part, ...]) -> dict[str, PackageLock]:
    """Return the locks that a word of the command line names, by the part that they are of."""
    from coreimage.operations.locks import current_locks, published_locks, read_lock_file  # noqa: PLC0415

    if Path(word).is_file():
        return {word: read_lock_file(Path(word))}
    if not parts:
        raise UsageError(f"{word!r} is no file", resolution="say whose lock it is with --channel")
    store = settings.opened_store
    if word not in {"current", "previous"}:
        return published_locks(parts, word, store=store)
    locks = current_locks(parts, "current" if word == "current" else "previous", store=store)
    if not locks:
        raise NotFoundError(f"there is no {word} lock", resolution="build the channel, or run `coreimage lock`")
    return locks


def _only_lock(locks: dict[str, PackageLock], word: str) -> dict[str, PackageLock]:
    """Return the one lock of a file or part under a name that makes any two of them comparable."""
    if len(locks) > 1:
        raise UsageError(
            f"{word} has {len(locks)} locks ({', '.join(locks)}), a file has one",
            resolution="compare two files; `coreimage --json lock CHANNEL` writes all of a channel",
        )
    return {"lock": next(iter(locks.values()))}
