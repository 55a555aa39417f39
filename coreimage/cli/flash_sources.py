"""Where `flash` takes an image and its gadget from."""

from __future__ import annotations

import importlib.resources
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from coreimage.cli.server import open_session, server_url
from coreimage.cli.settings import Settings
from coreimage.cli.tools import Tools, find_tools, machine_tools
from coreimage.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from coreimage.cli.flash import Wanted
    from coreimage.client import Session, Web
    from coreimage.config import Project
    from coreimage.disk_image import GadgetDescription, KeptImages
    from coreimage.http import Fetch

_DEFAULT_DEVICE = "generic_amd64"
"""2015's `--oem generic-amd64`."""


@dataclass
class Source:
    """One command's server, or none; `project` is None where it does not know the channel."""

    settings: Settings
    wanted: Wanted
    channel: str
    project: Project | None
    fetch: Fetch
    kept: KeptImages

    @cached_property
    def session(self) -> Session:
        return open_session(self.settings, self.wanted.server, self.wanted.keyring, fetch=self.fetch)

    @cached_property
    def device(self) -> str:
        """The one named, else the gadget's, else the channel's first in the project file, else 2015's default."""
        if self.wanted.device:
            return self.wanted.device
        if self.project and self.wanted.oem is None:
            return self.project.channel(self.channel).devices[0]
        return self.wanted.oem.replace("-", "_") if self.wanted.oem and not self._oem_path else _DEFAULT_DEVICE

    def gadget(self, work: Path) -> tuple[Path, GadgetDescription]:
        """Its folder, and what it says it is. Raises NotFoundError when nobody has a gadget of that name."""
        from coreimage.disk_image import describe_gadget, gadget_name, open_gadget  # noqa: PLC0415

        if self._oem_path:
            folder = open_gadget(self._oem_path, work, run=self.tools.run)
            if not self.wanted.device:
                self.device = describe_gadget(folder).device
        else:
            name = gadget_name(self.wanted.oem or self.device)
            folder = self._published(name, work) or self._of_project() or _shipped(name) or self._none(name)
        found = describe_gadget(folder)
        self._check_architecture(found)
        return folder, found

    @property
    def _oem_path(self) -> Path | None:
        """A file or folder of that name wins over the server's, as in 2015."""
        path = Path(self.wanted.oem) if self.wanted.oem else None
        return path if path and path.exists() else None

    def _published(self, name: str, work: Path) -> Path | None:
        from coreimage.client import NotPresentError  # noqa: PLC0415
        from coreimage.disk_image import fetch_gadget  # noqa: PLC0415
        from coreimage.image_server import client_errors  # noqa: PLC0415

        if self.wanted.local:
            return None
        run, open_message = self.tools.run, self.session.message
        with client_errors():
            try:
                return fetch_gadget(name, work, webs=self._oem_webs(), open_message=open_message, run=run)
            except NotPresentError:
                return None

    @cached_property
    def tools(self) -> Tools:
        """The server's, or the own store's; a server that is not needed otherwise is not asked for them."""
        if self.wanted.host_tools:
            return machine_tools()
        if self.wanted.local and (self.wanted.server is not None or not self._store_is_here):
            return machine_tools("Tools are not downloaded for local parts")
        return find_tools(self._oem_webs(), self.session.message)

    @property
    def _store_is_here(self) -> bool:
        """Whether the own store is a folder that something was built in."""
        url = urlsplit(self.settings.store_url)
        return url.scheme in {"", "file"} and Path(unquote(url.path), "system-image/channels.json").exists()

    def _oem_webs(self) -> Sequence[Web]:
        """Beside the channels, or below them, as a web server puts them."""
        from coreimage import progress  # noqa: PLC0415
        from coreimage.image_server import FetchWeb, StoreWeb  # noqa: PLC0415
        from coreimage.storage import open_store  # noqa: PLC0415

        if self.wanted.server is None:
            return [StoreWeb(open_store(self.settings.store_url), progress.each_file(), root="oem/")]
        url = server_url(self.wanted.server).rstrip("/")
        beside = [f"{url.rpartition('/')[0]}/oem"] if urlsplit(url).path else []
        return [FetchWeb(place, self.fetch) for place in (f"{url}/oem", *beside)]

    def _of_project(self) -> Path | None:
        devices = self.project.config.devices if self.project else {}
        if self.wanted.oem or self.project is None or self.device not in devices:
            return None
        return self.project.path(devices[self.device].gadget)

    def _none(self, name: str) -> Path:
        raise NotFoundError(
            f"there is no gadget {name!r}",
            where=self.wanted.server or self.settings.store_url,
            resolution="name a gadget snap or its folder with --oem",
        )

    def _check_architecture(self, found: GadgetDescription) -> None:
        suffix = self.device.rpartition("_")[2]
        if suffix in {"amd64", "arm64"} and suffix != found.architecture:
            raise UsageError(
                f"the gadget {found.name} is for {found.architecture}",
                where=f"device {self.device}",
                resolution="name another gadget with --oem, or another device with --device",
            )


@contextmanager
def open_source(settings: Settings, wanted: Wanted, cancelled: threading.Event) -> Iterator[Source]:
    """Whatever ends the block ends downloads that are under way."""
    from coreimage import http, progress  # noqa: PLC0415
    from coreimage.disk_image import KeptImages  # noqa: PLC0415

    cache = http.DownloadCache(http.default_folder(), settings.cache_bytes)
    kept = KeptImages(http.default_folder().with_name("images"), settings.cache_bytes)
    if wanted.clean_cache:
        cache.clear()
        kept.clear()
    fetch = http.CachedFetch(http.Downloader(progress=progress.each_file(), cancelled=cancelled), cache)
    project = _project(settings, wanted)
    channel = wanted.channel if "/" in wanted.channel else f"{_name(project)}/{wanted.series}/{wanted.channel}"
    known = project if project and channel in project.config.channels else None
    try:
        yield Source(settings, wanted, channel, known, fetch, kept)
    finally:
        cancelled.set()


def _project(settings: Settings, wanted: Wanted) -> Project | None:
    """The project file's, which a server of others may do without."""
    from coreimage.config import load_project  # noqa: PLC0415

    if wanted.server and settings.project is None and "/" in wanted.channel:
        return None
    return load_project(settings.project_file)


def _name(project: Project | None) -> str:
    return project.config.project if project else ""


def _shipped(name: str) -> Path | None:
    """The gadgets that are installed with us: for trees without any, as those of 2015."""
    folder = Path(str(importlib.resources.files("deployments") / "gadgets" / name.replace("-", "_")))
    return folder if (folder / "meta" / "gadget.yaml").is_file() else None
