"""The system-image tree that a command reads, of a server or of the own store, and the keyring that it trusts."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from coreimage.client import Seen, Session
from coreimage.errors import HostError, NotFoundError, UsageError
from coreimage.http import Downloader, Fetch, show_each_file
from coreimage.storage import Store, open_store
from coreimage.system_image.web import WEB_ROOT, GpgvVerify, StoreWeb, client_errors, open_server

_INSTALLED = (Path("/etc/system-image/archive-master.tar.xz"), Path("/usr/share/system-image/archive-master.tar.xz"))
"""The places of the keyring that the client of 2015 trusts."""
_KEYRING = "gpg/archive-master.tar.xz"


@dataclass(frozen=True)
class TreeSource:
    """The tree that one command reads, and the records of what was seen of servers before."""

    store_url: str
    records: Path
    """The folder with one file for each server, about the newest channels document that was seen there."""
    server: str | None = None
    """The web root of a server: an HTTP(S) URL or a folder. None is the own store."""
    keyring: Path | None = None
    """The archive-master keyring to trust; None is that of the own store, or the one installed for a server."""
    legacy: bool = False
    """Whether a server of 2015 is believed, which cannot tell old channels from new ones."""

    @property
    def url(self) -> str:
        """The web root, as a URL."""
        if self.server is None:
            return f"{self.store_url}/{WEB_ROOT.rstrip('/')}"
        return self.server if urlsplit(self.server).scheme else Path(self.server).absolute().as_uri()

    def open_session(self, fetch: Fetch | None = None) -> Session:
        """Open a session with the tree; its calls belong inside `client_errors()`.

        Args:
            fetch: Downloads from a server; None for one that shows progress.

        Raises:
            UsageError: There is no keyring to trust.
            NotFoundError: The own store has no channels yet.
            HostError: The record of the server cannot be read or written.
        """
        if self.server is None:
            store = open_store(self.store_url)
            archive_master = self.keyring.read_bytes() if self.keyring else store_keyring(store)
            return Session(StoreWeb(store, show_each_file()), GpgvVerify(), archive_master, time.time)
        record = self.records / f"{hashlib.sha256(self.url.encode()).hexdigest()[:32]}.json"
        session = open_server(
            self.url,
            server_keyring(self.server, self.keyring),
            fetch=fetch or Downloader(progress=show_each_file()),
            seen=_read_seen(record),
            legacy=self.legacy,
        )
        with client_errors():
            _write_seen(record, self.url, session.seen())
        return session


def server_keyring(server: str, keyring: Path | None) -> bytes:
    """Return the archive-master keyring for a server: the one named, else the one installed on this machine.

    Raises:
        UsageError: There is no keyring.
    """
    keyring = keyring or next((path for path in _INSTALLED if path.is_file()), None)
    if keyring is None:
        raise UsageError(
            "there is no keyring to trust", where=server, resolution="name its archive-master keyring with --keyring"
        )
    return keyring.read_bytes()


def store_keyring(store: Store) -> bytes:
    """Return the archive-master keyring that a store publishes; it is trusted as much as the store.

    Raises:
        NotFoundError: Nothing was built in the store yet.
    """
    try:
        with store.open(WEB_ROOT + _KEYRING) as file:
            return file.read()
    except NotFoundError as error:
        raise NotFoundError(
            "the store has no channels yet", where=store.url, resolution="build one: `coreimage build CHANNEL`"
        ) from error


def _read_seen(record: Path) -> Seen:
    try:
        document = json.loads(record.read_bytes())
        return Seen(number=int(document["number"]), sha256=str(document["sha256"]))
    except FileNotFoundError:
        return Seen()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(
            "cannot be read, and without it old channels would go unnoticed",
            where=str(record),
            resolution="restore the file; or remove it, if you trust what the server says now",
        ) from error


def _write_seen(record: Path, url: str, seen: Seen) -> None:
    document = json.dumps({"url": url, "number": seen.number, "sha256": seen.sha256})
    partial = record.with_suffix(f".{os.getpid()}.part")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: a record cut short would refuse every later session.
        partial.write_text(document)
        partial.replace(record)
    except OSError as error:
        raise HostError(
            f"cannot be written: {error.strerror}", where=str(record), resolution="work in a folder of your own"
        ) from error
