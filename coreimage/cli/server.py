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
    from coreimage.flash import WEB_ROOT, StoreWeb  # noqa: PLC0415
    from coreimage.image_server import GpgvVerify, open_server  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    if server is not None:
        if keyring is None:
            raise UsageError(
                "nothing says whom to trust", where=server, resolution="name its archive-master keyring with --keyring"
            )
        url = server if urlsplit(server).scheme else Path(server).absolute().as_uri()
        return open_server(url, keyring.read_bytes(), fetch=http.Downloader(progress=progress.each_file()))
    store = open_store(settings.store_url)
    web = StoreWeb(store, progress.each_file())
    if keyring is not None:
        return Session(web, GpgvVerify(), keyring.read_bytes(), time.time)
    try:
        with store.open(WEB_ROOT + _KEYRING) as file:
            return Session(web, GpgvVerify(), file.read(), time.time)
    except NotFoundError as error:
        raise NotFoundError(
            "the store has no channels yet", where=store.url, resolution="build one: `coreimage build CHANNEL`"
        ) from error
