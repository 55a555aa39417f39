"""What one run builds according to the project file: devices, architectures, specs and the pointers to their locks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coreimage import rootfs
from coreimage.architecture.facts import FACTS
from coreimage.model import Architecture, Firmware, PackageLock
from coreimage.operations import locks
from coreimage.project.config import ArchitectureConfig, ChannelConfig, Project, SeriesConfig
from coreimage.rootfs import ArchiveSpec, Spec
from coreimage.storage import Store, require_format
from flows.running.architecture import ArchitectureBuild
from tasks.site import Site


@dataclass(frozen=True)
class Part:
    """One chroot of a build: its spec, and the pointer that names its newest lock.

    `name` is for people, such as `core for amd64`.
    """

    name: str
    spec: Spec
    pointer: str

    def current(self, store: Store) -> PackageLock | None:
        """Return the newest lock, or None before the first."""
        return rootfs.named_lock(self.pointer, store)


@dataclass(frozen=True)
class ChannelBuild:
    """One run's build of a channel, for all or some of its devices, in the channel's order."""

    project: Project
    channel: str
    devices: tuple[str, ...]
    site: Site

    @classmethod
    def open(cls, channel: str, project_file: str, devices: tuple[str, ...], site: Site) -> ChannelBuild:
        """Open the project, and the store in a format that this coreimage knows.

        Args:
            channel: The channel to build.
            project_file: A path or `store:…`; empty for the worker's own.
            devices: The only devices to build; empty for all devices of the channel.
            site: Where the run works.

        Raises:
            NotFoundError: The project does not have the channel, or the channel does not have a device.
        """
        project = site.project(project_file)
        chosen = project.devices_of(channel, devices)
        require_format(site.store())
        return cls(project, channel, chosen, site)

    @property
    def config(self) -> ChannelConfig:
        return self.project.channel(self.channel)

    @property
    def series(self) -> SeriesConfig:
        return self.project.config.series[self.config.series]

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """The architectures of the devices, sorted."""
        return tuple(sorted({self.architecture_of(device) for device in self.devices}))

    @property
    def expected_tasks(self) -> int:
        """How many tasks with a title the build has, as an estimate for the progress bar."""
        # Probe, two of the tools, publish and pages; per architecture plan, rootfs and mark; per device plan, part,
        # version, image, boot and release.
        return 5 + 3 * len(self.architectures) + 6 * len(self.devices)

    def architecture_builds(self) -> tuple[ArchitectureBuild, ...]:
        """Return a new build for each architecture, with its deadline."""
        configs = {each: self.config.architectures.get(each, ArchitectureConfig()) for each in self.architectures}
        return tuple(
            ArchitectureBuild(each, config.deadline_minutes * 60, required=config.required, labelled=len(configs) > 1)
            for each, config in configs.items()
        )

    def architecture_of(self, device: str) -> Architecture:
        return self.project.config.devices[device].architecture

    def devices_of(self, architecture: Architecture) -> tuple[str, ...]:
        return tuple(device for device in self.devices if self.architecture_of(device) == architecture)

    def archives(self) -> tuple[tuple[ArchiveSpec, ...], ...]:
        """Return the sets of archives of all parts, each once: rootfs and devices of a series share one set."""
        parts = self.rootfs(self.architectures[0]), self.tools()
        return tuple(dict.fromkeys(part.spec.archives for part in parts))

    def tools(self) -> Part:
        """Return the part of the tools: the programs that build everything else, locked like any other part."""
        return self._part(locks.tools_part(self.project, self.channel))

    def rootfs(self, architecture: Architecture) -> Part:
        return self._part(locks.rootfs_part(self.project, self.channel, architecture))

    def device(self, device: str) -> Part:
        return self._part(locks.device_part(self.project, self.channel, device))

    def _part(self, part: locks.Part) -> Part:
        return Part(part.name.replace("/", " for "), part.spec(self.site.store()), part.pointer)

    def firmwares(self, architecture: Architecture) -> tuple[Firmware, ...]:
        """Return the firmwares of the channel's boot test that machines of the architecture have."""
        return tuple(name for name in self.config.boot_test if name in FACTS[architecture].firmwares)

    def gadget_folder(self, device: str) -> Path:
        return self.project.path(self.project.config.devices[device].gadget)
