"""The system-image tree that a command reads: a server's, or that of the own store."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from coreimage.cli.settings import Settings
from coreimage.errors import HostError, NotFoundError, UsageError

if TYPE_CHECKING:
    from coreimage.client import Seen, Session
    from coreimage.http import Fetch
    from coreimage.storage import Store

_INSTALLED = (Path("/etc/system-image/archive-master.tar.xz"), Path("/usr/share/system-image/archive-master.tar.xz"))
"""Where 2015's client has the keyring that it trusts."""
_LEGACY = "coreimage.legacy"
_KEYRING = "gpg/archive-master.tar.xz"


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--server` and `--keyring`, as all commands that read a tree have them."""
    keyring = click.Path(path_type=Path, exists=True, dir_okay=False)
    command = click.option(
        "--legacy",
        is_flag=True,
        expose_value=False,
        callback=_remember_legacy,
        help="Believe a server of 2015, which cannot tell old channels from new ones.",
    )(command)
    command = click.option("--keyring", type=keyring, help="archive-master.tar.xz: whom to trust.")(command)
    return click.option("--server", metavar="URL|DIR", help="Web root of a system-image tree [the store's].")(command)


def _remember_legacy(context: click.Context, _option: click.Parameter, value: bool) -> None:
    context.meta[_LEGACY] = value


def server_url(server: str) -> str:
    return server if urlsplit(server).scheme else Path(server).absolute().as_uri()


def open_session(
    settings: Settings, server: str | None, keyring: Path | None, *, fetch: Fetch | None = None
) -> Session:
    """Of a server: with the keyring that was named, and what was seen of it before, below `var/servers`. Of the own
    store: with its own keyring, which is as trusted as the disk."""
    from coreimage import http, progress  # noqa: PLC0415
    from coreimage.client import Session  # noqa: PLC0415
    from coreimage.image_server import GpgvVerify, StoreWeb, client_errors, open_server  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    if server is not None:
        url = server_url(server)
        record = settings.state("servers") / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"
        fetch = fetch or http.Downloader(progress=progress.each_file())
        legacy = bool(click.get_current_context().meta.get(_LEGACY))
        session = open_server(url, trusted(server, keyring), fetch=fetch, seen=_seen(record), legacy=legacy)
        with client_errors():
            _keep(record, url, session.seen())
        return session
    store = open_store(settings.store_url)
    archive_master = keyring.read_bytes() if keyring else own_keyring(store)
    return Session(StoreWeb(store, progress.each_file()), GpgvVerify(), archive_master, time.time)


def _seen(record: Path) -> Seen:
    from coreimage.client import Seen  # noqa: PLC0415

    try:
        found = json.loads(record.read_bytes())
        return Seen(number=int(found["number"]), sha256=str(found["sha256"]))
    except FileNotFoundError:
        return Seen()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(
            "cannot be read, and without it old channels would go unnoticed",
            where=str(record),
            resolution="restore it; or remove it, if you trust what the server says now",
        ) from error


def _keep(record: Path, url: str, seen: Seen) -> None:
    """Whole or not at all: a file cut short would keep everybody out."""
    document = json.dumps({"url": url, "number": seen.number, "sha256": seen.sha256})
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        partial = record.with_suffix(f".{os.getpid()}.part")
        partial.write_text(document)
        partial.replace(record)
    except OSError as error:
        raise HostError(
            f"cannot be written: {error.strerror}", where=str(record), resolution="work in a folder of your own"
        ) from error


def trusted(server: str, keyring: Path | None) -> bytes:
    """Raises UsageError when nothing says whom to trust."""
    keyring = keyring or next((path for path in _INSTALLED if path.is_file()), None)
    if keyring is None:
        raise UsageError(
            "nothing says whom to trust", where=server, resolution="name its archive-master keyring with --keyring"
        )
    return keyring.read_bytes()


def own_keyring(store: Store) -> bytes:
    """The archive-master keyring that the own store publishes. Raises NotFoundError when nothing was built yet."""
    from coreimage.image_server import WEB_ROOT  # noqa: PLC0415

    try:
        with store.open(WEB_ROOT + _KEYRING) as file:
            return file.read()
    except NotFoundError as error:
        raise NotFoundError(
            "the store has no channels yet", where=store.url, resolution="build one: `coreimage build CHANNEL`"
        ) from error
