"""The system-image tree that a command reads: a server's, or that of the own store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from coreimage.cli.settings import Settings
from coreimage.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from coreimage.client import Session
    from coreimage.storage import Store

_KEYRING = "gpg/archive-master.tar.xz"


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--server` and `--keyring`, as all commands that read a tree have them."""
    keyring = click.Path(path_type=Path, exists=True, dir_okay=False)
    command = click.option("--keyring", type=keyring, help="archive-master.tar.xz: whom to trust.")(command)
    return click.option("--server", metavar="URL|DIR", help="Web root of a system-image tree [the store's].")(command)


def open_session(settings: Settings, server: str | None, keyring: Path | None) -> Session:
    """Of a server: with the keyring that was named. Of the own store: with its own, which is as trusted as the disk."""
    from coreimage import http, progress  # noqa: PLC0415
    from coreimage.client import Session  # noqa: PLC0415
    from coreimage.image_server import GpgvVerify, StoreWeb, open_server  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    if server is not None:
        url = server if urlsplit(server).scheme else Path(server).absolute().as_uri()
        return open_server(url, trusted(server, keyring), fetch=http.Downloader(progress=progress.each_file()))
    store = open_store(settings.store_url)
    archive_master = keyring.read_bytes() if keyring else own_keyring(store)
    return Session(StoreWeb(store, progress.each_file()), GpgvVerify(), archive_master, time.time)


def trusted(server: str, keyring: Path | None) -> bytes:
    """Raises UsageError when nothing says whom to trust."""
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
