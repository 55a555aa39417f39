"""`coreimage lock`: exactly what a channel is built of, planned anew, or compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.columns import aligned
from coreimage.cli.settings import Settings
from coreimage.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from coreimage.cli.lock_parts import Part
    from coreimage.model import LockedPackage, PackageLock
    from coreimage.rootfs.lock import Which
    from coreimage.rootfs.lock_diff import LockDiff

_WHICH: dict[str, Which] = {"current": "current", "previous": "previous"}


class _ShowByDefault(click.Group):
    """`lock CHANNEL` is `lock show CHANNEL`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        known = {*self.commands, "-h", "--help"}
        return super().parse_args(context, args if not args or args[0] in known else ["show", *args])


@click.group(cls=_ShowByDefault)
def lock() -> None:
    """Show, renew and compare locks: which packages, exactly, a channel is built of.

    \b
    Example:
      coreimage lock debian-core/13/edge
      coreimage lock debian-core/13/edge --refresh
      coreimage lock diff previous current --channel debian-core/13/edge
    """


@lock.command()
@click.argument("channel")
@click.option("--device", "devices", multiple=True, metavar="D", help="Only this device; may be repeated.")
@click.option("--refresh", is_flag=True, help="Plan anew from how the archives stand now; builds only the tools.")
@click.pass_obj
def show(settings: Settings, channel: str, devices: tuple[str, ...], refresh: bool) -> None:
    """List the packages of CHANNEL's rootfs and devices as they are locked.

    \b
    Example:
      coreimage lock show debian-core/13/edge --device generic_amd64
    """
    from coreimage import logs  # noqa: PLC0415
    from coreimage.cli.lock_parts import channel_parts, current_locks, refresh_locks  # noqa: PLC0415
    from coreimage.config import load_project  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    logs.show(settings.log_level)
    store = open_store(settings.store_url)
    parts = channel_parts(load_project(settings.project_file), channel, devices)
    if refresh:
        changes = refresh_locks(parts, store=store)
        click.echo(_as_json(changes) if settings.as_json else "\n".join(_refreshed(*item) for item in changes.items()))
        return
    locks = current_locks(parts, "current", store=store)
    if not locks:
        raise NotFoundError("nothing is locked yet", where=channel, resolution="add --refresh, or build the channel")
    click.echo(_as_json(locks) if settings.as_json else "\n\n".join(table(*item) for item in locks.items()))


@lock.command()
@click.argument("old")
@click.argument("new")
@click.option("--channel", help="Whose locks and builds are meant.")
@click.option("--device", "devices", multiple=True, metavar="D", help="Only this device; may be repeated.")
@click.pass_obj
def diff(settings: Settings, old: str, new: str, channel: str | None, devices: tuple[str, ...]) -> None:
    """Tell what differs between two locks: packages, archives, tools, configuration.

    OLD and NEW are files, or, of a --channel, `current`, `previous` or build ids.

    \b
    Example:
      coreimage lock diff 20261123 current --channel debian-core/13/edge
    """
    from coreimage.rootfs.lock_diff import lock_diff  # noqa: PLC0415

    parts = _parts(settings, channel, devices)
    before, after = _resolve(settings, old, parts), _resolve(settings, new, parts)
    if Path(old).is_file() or Path(new).is_file():
        before, after = _single(before, old), _single(after, new)
    common = [name for name in after if name in before]
    if not common:
        raise NotFoundError(f"{old} and {new} have no part in common", where=channel or "")
    found = {name: lock_diff(before[name], after[name]) for name in common}
    click.echo(_as_json(found) if settings.as_json else "\n".join(told(*item) for item in found.items()))


def table(name: str, locked: PackageLock) -> str:
    """The packages in columns, after a heading of what they are locked with."""
    tools = ", ".join(f"{tool} {version}" for tool, version in locked.tools.items()) or "the machine's own"
    archives = [f"# archive {r.uri} {r.suite}: {r.date}" for r in locked.releases]
    heading = [f"# {name}: {len(locked.packages)} packages, epoch {locked.epoch}", *archives, f"# tools: {tools}"]
    return "\n".join([*heading, aligned([_row(package) for package in locked.packages])])


def told(name: str, found: LockDiff) -> str:
    return "\n".join([f"{name}:", *(f"  {line}" for line in found.lines() or ("no difference",))])


def _refreshed(name: str, found: LockDiff | None) -> str:
    return told(name, found) if found else f"{name}:\n  locked for the first time"


def _row(package: LockedPackage) -> tuple[str, ...]:
    size, sha256 = str(package.size_bytes), package.sha256
    return package.name, package.version, package.architecture, size, sha256, package.archive


def _as_json(values: object) -> str:
    from pydantic_core import to_jsonable_python  # noqa: PLC0415

    return json.dumps(to_jsonable_python(values))


def _parts(settings: Settings, channel: str | None, devices: tuple[str, ...]) -> tuple[Part, ...]:
    from coreimage.cli.lock_parts import channel_parts  # noqa: PLC0415
    from coreimage.config import load_project  # noqa: PLC0415

    return channel_parts(load_project(settings.project_file), channel, devices) if channel else ()


def _resolve(settings: Settings, word: str, parts: tuple[Part, ...]) -> dict[str, PackageLock]:
    from coreimage.cli.lock_parts import current_locks, published_locks, read_lock_file  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    if Path(word).is_file():
        return {word: read_lock_file(Path(word))}
    if not parts:
        raise UsageError(f"{word!r} is no file", resolution="say whose lock it is with --channel")
    store = open_store(settings.store_url)
    which = _WHICH.get(word)
    if which:
        found = current_locks(parts, which, store=store)
        if not found:
            raise NotFoundError(f"there is no {word} lock", resolution="build the channel, or run `coreimage lock`")
        return found
    return published_locks(parts, word, store=store)


def _single(locks: dict[str, PackageLock], word: str) -> dict[str, PackageLock]:
    """A file is compared with one part, whatever it is called."""
    if len(locks) > 1:
        raise UsageError(
            f"{word} has {len(locks)} locks ({', '.join(locks)}), a file has one",
            resolution="compare two files; `coreimage --json lock CHANNEL` writes all of a channel",
        )
    return {"lock": next(iter(locks.values()))}
