"""The sources of an image that `coreimage flash` makes: server or store, device, gadget and tools."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coreimage.architecture.facts import FACTS
from coreimage.client import NotPresentError, Session, Web
from coreimage.disk_image import GadgetDescription, describe_gadget, fetch_gadget, gadget_name, open_gadget
from coreimage.errors import NotFoundError, UsageError
from coreimage.http import Fetch, show_each_file
from coreimage.operations.tools import OEM_ROOT, ImageTools, find_tools, machine_tools
from coreimage.operations.tree_source import TreeSource
from coreimage.project.config import Project
from coreimage.storage import open_store
from coreimage.system_image.web import FetchWeb, StoreWeb, client_errors

_DEFAULT_DEVICE = "generic_amd64"
"""2015's `--oem generic-amd64`."""


@dataclass
class FlashSources:
    """The sources of one image. Each is opened when it is first asked for."""

    tree: TreeSource
    fetch: Fetch
    channel: str
    project: Project | None
    """The project file that has the channel; None where none does."""
    device_option: str | None
    """The device that the command line names."""
    oem: str | None
    """The gadget that the command line names: a name on the server, or a file or folder of this machine."""
    needs_no_server: bool
    """Whether rootfs and device part are files of this machine."""
    wants_machine_tools: bool

    @cached_property
    def session(self) -> Session:
        return self.tree.open_session(self.fetch)

    @cached_property
    def device(self) -> str:
        """The named device, else the gadget's, else the channel's first in the project file, else 2015's default."""
        if self.device_option:
            return self.device_option
        if self.project and self.oem is None:
            return self.project.channel(self.channel).devices[0]
        return self.oem.replace("-", "_") if self.oem and not self._oem_path else _DEFAULT_DEVICE

    @cached_property
    def tools(self) -> ImageTools:
        """The tools that the server, or the own store, offers for this machine; else the machine's own."""
        if self.wants_machine_tools:
            return machine_tools()
        # A server that is not needed otherwise is not asked for tools.
        if self.needs_no_server and (self.tree.server is not None or not self._store_is_local_and_has_channels()):
            return machine_tools("Tools are not downloaded for local parts")
        return find_tools(self._oem_webs(), self.session.message)

    def open_gadget(self, work: Path) -> tuple[Path, GadgetDescription]:
        """Choose the gadget, and return its folder and its description.

        A path of this machine comes before a name on the server, as in 2015; after those, the project file's gadget of
        the device and the gadgets that are installed with coreimage.

        Args:
            work: The folder in which the gadget is unpacked.

        Raises:
            NotFoundError: No source has a gadget of that name.
            UsageError: The gadget is for another architecture than the device.
        """
        if self._oem_path:
            folder = open_gadget(self._oem_path, work, run=self.tools.run)
            if not self.device_option:
                self.device = describe_gadget(folder).device
        else:
            name = gadget_name(self.oem or self.device)
            named = self._published_gadget(name, work) or self._project_gadget() or _shipped_gadget(name)
            if named is None:
                raise NotFoundError(
                    f"there is no gadget {name!r}",
                    where=self.tree.server or self.tree.store_url,
                    resolution="name a gadget snap or its folder with --oem",
                )
            folder = named
        description = describe_gadget(folder)
        if self._architecture() not in {None, description.architecture}:
            raise UsageError(
                f"the gadget {description.name} is for {description.architecture}",
                where=f"device {self.device}",
                resolution="name another gadget with --oem, or another device with --device",
            )
        return folder, description

    def _architecture(self) -> str | None:
        """Return the architecture of the device: what the project file says, else the end of its name if it is one."""
        devices = self.project.config.devices if self.project else {}
        if self.device in devices:
            return devices[self.device].architecture
        suffix = self.device.rpartition("_")[2]
        return suffix if suffix in FACTS else None

    @property
    def _oem_path(self) -> Path | None:
        path = Path(self.oem) if self.oem else None
        return path if path and path.exists() else None

    def _published_gadget(self, name: str, work: Path) -> Path | None:
        if self.needs_no_server:
            return None
        run, open_message = self.tools.run, self.session.message
        with client_errors():
            try:
                return fetch_gadget(name, work, webs=self._oem_webs(), open_message=open_message, run=run)
            except NotPresentError:
                return None

    def _project_gadget(self) -> Path | None:
        devices = self.project.config.devices if self.project else {}
        if self.oem or self.project is None or self.device not in devices:
            return None
        return self.project.path(devices[self.device].gadget)

    def _oem_webs(self) -> Sequence[Web]:
        """Return the places of gadgets and tools: below or beside the channels, depending on the web server."""
        if self.tree.server is None:
            return [StoreWeb(open_store(self.tree.store_url), show_each_file(), root=OEM_ROOT)]
        url = self.tree.url.rstrip("/")
        beside = [f"{url.rpartition('/')[0]}/oem"] if urlsplit(url).path else []
        return [FetchWeb(place, self.fetch) for place in (f"{url}/oem", *beside)]

    def _store_is_local_and_has_channels(self) -> bool:
        url = urlsplit(self.tree.store_url)
        return url.scheme in {"", "file"} and Path(unquote(url.path), "system-image/channels.json").exists()


def _shipped_gadget(name: str) -> Path | None:
    """Return the gadget of that name that is installed with coreimage, for trees without any, as those of 2015."""
    folder = Path(str(importlib.resources.files("deployments") / "gadgets" / name.replace("-", "_")))
    return folder if (folder / "meta" / "gadget.yaml").is_file() else None
