"""From archives to a released channel. Read `build_channel` top to bottom: it is the story."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import structlog
from prefect import flow

from coreimage import disk_image, logs, rootfs
from coreimage.config import ArchitectureConfig, ChannelConfig, Project
from coreimage.errors import BootError, NotFoundError
from coreimage.logs import story
from coreimage.model import (
    FIRMWARES,
    Architecture,
    ArchiveRelease,
    ArtifactRef,
    BootReport,
    Candidate,
    CustomBuild,
    DeviceBuild,
    DiskImage,
    Firmware,
    PackageLock,
    PublishedBuild,
    RootfsBuild,
    ToolsTree,
)
from coreimage.project_bundle import open_project
from coreimage.publication import BuildContent
from coreimage.rootfs import ArchiveSpec, DeviceSpec, RootfsSpec, Spec
from coreimage.storage import require_format
from coreimage.system_image import Component
from flows.elsewhere import SPREAD, Spread
from flows.lanes import Lane, side_by_side
from flows.progress import name_run, run_name
from flows.report import changed_packages, lock_changes, news, show_failed_boot, show_result, why
from flows.result import ArchitectureResult, BuildResult, DeviceResult
from flows.schedule import drop_missed
from flows.steps import Planned, Steps, Taking, step
from flows.story import duration, packages
from tasks import boot_test, pages, publication, system_image
from tasks import disk_image as images
from tasks import rootfs as chroots
from tasks.site import DEFAULT_PROJECT, PROJECT, Site, named

log = structlog.get_logger("coreimage.build")


class ChosenLock(NamedTuple):
    """What one part is made of in this run; `pointer` names the part. The tools are of no architecture: of all."""

    pointer: str
    architecture: Architecture | None
    lock: ArtifactRef


Parts: TypeAlias = tuple[RootfsBuild, tuple[DeviceBuild, ...]]
"""What is built for one architecture."""


@flow(
    name="build-channel",
    flow_run_name="{channel}",
    persist_result=True,
    result_serializer="json",
    on_running=[drop_missed],
)
def build_channel(
    channel: str,
    project_file: str = "",
    store_url: str = "",
    keys_folder: str = "",
    devices: tuple[str, ...] = (),
    refresh: bool = False,
    offline: bool = False,
) -> BuildResult:
    """Builds a channel from its archives and releases it once it boots.

    Run again with nothing changed, it looks at the archives and finds every other step remembered: no build id and no
    version is allotted. A failed boot raises BootError and leaves the channel as it was.

    Args:
        channel: What is built.
        project_file: The project; empty: COREIMAGE_PROJECT of the worker.
        store_url: Where artifacts and channels are; empty: COREIMAGE_STORE of the worker.
        keys_folder: The signing keys; empty: COREIMAGE_KEYS of the worker.
        devices: Only these; none named: all of the channel.
        refresh: Do every step anew, whatever is remembered.
        offline: Build from the current lock and the .debs in the store, asking no archive.
    """
    logs.configure()
    site = Site.here(store_url=store_url, keys_folder=keys_folder, channel=channel, offline=offline)
    return Build(channel, project_file, site, devices, refresh=refresh).run()


class Build:
    """One run of a channel: what it is about, and the steps it has taken."""

    def __init__(self, channel: str, project_file: str, site: Site, devices: tuple[str, ...], *, refresh: bool) -> None:
        self.site, self.store = site, site.store()
        self.project = open_project(named(project_file, PROJECT, DEFAULT_PROJECT), store=self.store)
        self.channel, self.config = channel, self.project.channel(channel)
        self.devices = chosen_devices(channel, self.config, devices)
        require_format(self.store)
        self.steps = taking(self.expected_steps(), refresh=refresh)
        self.changes: dict[str, tuple[str, ...]] = {}
        self.locks: list[ChosenLock] = []
        self.probed: dict[tuple[ArchiveSpec, ...], tuple[ArchiveRelease, ...]] = {}
        self.offered: set[ArtifactRef] = set()

    def expected_steps(self) -> int:
        """Pages; per architecture plan, rootfs and mark; per device plan, part, version, image, boot and release."""
        return 4 + 3 * len(architectures(self.project, self.devices)) + 6 * len(self.devices)

    def run(self) -> BuildResult:
        start_s = time.monotonic()
        log.info("building", channel=self.channel, devices=",".join(self.devices), store=self.store.url)
        story.info(f"Building {self.channel} for {', '.join(self.devices)}")
        lanes = self.lanes()
        self.prepare()
        parts = side_by_side({lane: partial(self.parts, lane.architecture) for lane in lanes})
        require_some(lanes, parts)
        published = self.published(lanes, tuple(parts.values()))
        name_run(run_name(self.channel, self.devices, published.build_id))
        self.steps.take("", system_image.publish_keyrings, site=self.site)
        finished = side_by_side({lane: partial(self.finish, lane.architecture, published) for lane in parts})
        require_some(lanes, finished)
        self.write_pages(published, [device for devices in finished.values() for device in devices])
        result = self.result(published, lanes, tuple(finished.values()))
        show_result(result, self.changes, web=self.project.config.web, store=self.store)
        self.note_released({lane.architecture for lane in finished})
        self.steps.finish(news(result))
        log.info(why(result), channel=self.channel, versions=",".join(str(d.release.version) for d in result.devices))
        story.info(f"{news(result)} ({duration(time.monotonic() - start_s)})")
        return result

    def lanes(self) -> tuple[Lane, ...]:
        """One per architecture of the run."""
        wanted = {name: self.config.architectures.get(name, ArchitectureConfig()) for name in self.architectures}
        return tuple(
            Lane(name, config.deadline_minutes * 60, required=config.required) for name, config in wanted.items()
        )

    def prepare(self) -> None:
        """What all architectures share is done once, before they go their own ways."""
        spec = rootfs.rootfs_spec(self.project, self.channel, self.architectures[0], store=self.store)
        if not self.locks_stand:
            self.releases(spec)
        log.debug("tools", tree=self.tools.tree.uri)

    def published(self, lanes: tuple[Lane, ...], parts: tuple[Parts, ...]) -> PublishedBuild:
        """What could not be built is carried over from the last build that had it."""
        carry = tuple(lane.architecture for lane in lanes if lane.failure)
        content = self.content(parts)
        return self.steps.take("Publishing the build", publication.publish_build, content, carry, site=self.site)

    def result(
        self, published: PublishedBuild, lanes: tuple[Lane, ...], finished: tuple[tuple[DeviceResult, ...], ...]
    ) -> BuildResult:
        found = {result.device: result for results in finished for result in results}
        worked = any(lane.failure for lane in lanes) or not all(step.cached for step in self.steps.taken)
        return BuildResult(
            channel=self.channel,
            published=published,
            devices=tuple(found[name] for name in self.devices if name in found),
            steps=self.steps.taken,
            architectures=tuple(
                ArchitectureResult(
                    architecture=lane.architecture,
                    log=lane.store_log(self.store) if worked else None,
                    failure=str(lane.failure) if lane.failure else "",
                )
                for lane in lanes
            ),
        )

    @cached_property
    def tools(self) -> ToolsTree:
        """The programs that everything is made with: locked like any other part of the build."""
        spec = rootfs.tools_spec(self.project, rootfs.machine_architecture(), store=self.store)
        distribution = self.project.config.tools.distribution
        pointer = rootfs.tools_lock_pointer(self.project.config.project, distribution, spec.architecture)
        lock = self.lock(spec, pointer, "tools")
        return self.steps.take("Unpacking the tools", chroots.build_tools, lock, site=self.site)

    @property
    def locks_stand(self) -> bool:
        """Whether the packages are those of the current locks, whatever the archives have."""
        return self.site.offline

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        return architectures(self.project, self.devices)

    def devices_of(self, architecture: Architecture) -> tuple[str, ...]:
        known = self.project.config.devices
        return tuple(name for name in self.devices if known[name].architecture == architecture)

    def parts(self, architecture: Architecture) -> Parts:
        """The rootfs and the device parts of one architecture."""
        built = self.rootfs(architecture)
        devices = [self.device_part(device) for device in self.devices_of(architecture)]
        self.steps.ahead(built, *devices)
        return self.steps.do(built), tuple(self.steps.do(planned) for planned in devices)

    def custom(self, built: RootfsBuild) -> CustomBuild:
        """Files of a folder: made anew in every run."""
        run = self.site.run(self.tools)
        return rootfs.build_custom(
            self.project, self.channel, built.architecture, built.lock, store=self.store, run=run
        )

    def content(self, parts: Sequence[Parts]) -> BuildContent:
        """Every rootfs and device part that the channel's dated build publishes."""
        series = self.project.config.series[self.config.series]
        return BuildContent(
            project=self.project.config.project,
            series=self.config.series,
            codename=series.codename,
            product=series.product,
            image_type=self.config.image_type,
            rootfs=tuple(built for built, _ in parts),
            devices=tuple(device for _, devices in parts for device in devices),
            custom=tuple(self.custom(built) for built, _ in parts) if series.custom else (),
        )

    def finish(self, architecture: Architecture, published: PublishedBuild) -> tuple[DeviceResult, ...]:
        """Releases the devices of one architecture; only then its build is good."""
        devices = self.released(published, self.devices_of(architecture))
        self.mark_good(published, architecture, devices)
        return devices

    def rootfs(self, architecture: Architecture) -> Planned[RootfsBuild]:
        spec = rootfs.rootfs_spec(self.project, self.channel, architecture, store=self.store)
        lock = self.part_lock(spec, self.project.config.series[self.config.series].product, architecture)
        title = f"Building the rootfs for {architecture}"
        return step(title, chroots.build_rootfs, spec, lock, self.tools, site=self.site)

    def device_part(self, device: str) -> Planned[DeviceBuild]:
        spec = rootfs.device_spec(self.project, self.channel, device, store=self.store)
        lock = self.part_lock(spec, device, self.project.config.devices[device].architecture)
        title = f"Building kernel and initrd of {device}"
        return step(title, chroots.build_device, spec, lock, self.tools, site=self.site)

    def part_lock(self, spec: RootfsSpec | DeviceSpec, part: str, architecture: Architecture) -> ArtifactRef:
        pointer = rootfs.lock_pointer(self.project.config.project, self.config.series, part, architecture)
        return self.lock(spec, pointer, f"{part} for {architecture}")

    def lock(self, spec: Spec, pointer: str, part: str) -> ArtifactRef:
        """Which packages, exactly: planned from how the archives stand now, and recorded for the next plan.

        What is told are the changes since the channel's last release: what was planned in between, and failed, reached
        nobody.
        """
        previous = rootfs.named_lock(pointer, self.store)
        lock = self.locked(spec, previous) if self.locks_stand else self.planned(spec, previous, part)
        chosen = rootfs.read_lock(self.store, lock)
        released = rootfs.released_lock(pointer, self.channel, self.store)
        story.info(packages(chosen, changed_packages(released, chosen), first=released is None))
        self.changes[part] = lock_changes(released, chosen)
        architecture = None if isinstance(spec, rootfs.ToolsSpec) else spec.architecture
        self.locks.append(ChosenLock(pointer, architecture, lock))
        self.name_lock(pointer, lock)
        return lock

    def note_released(self, released: Collection[Architecture]) -> None:
        """After the report: a run that ends before it has told the changes leaves that to the next."""
        for pointer, architecture, lock in self.locks:
            if architecture is None or architecture in released:
                rootfs.note_released(pointer, self.channel, lock, self.store)

    def name_lock(self, pointer: str, lock: ArtifactRef) -> None:
        rootfs.move_lock_pointer(pointer, lock, self.store)

    def planned(self, spec: Spec, previous: PackageLock | None, part: str) -> ArtifactRef:
        title, releases = f"Choosing the packages of {part}", self.releases(spec)
        if isinstance(spec, rootfs.ToolsSpec):
            return self.steps.take(title, chroots.plan_tools, spec, releases, previous, site=self.site)
        return self.steps.take(title, chroots.plan_packages, spec, releases, previous, self.tools, site=self.site)

    def locked(self, spec: Spec, current: PackageLock | None) -> ArtifactRef:
        own = isinstance(spec, rootfs.ToolsSpec)
        versions = {} if own else rootfs.tool_versions(self.tools, self.store)
        return rootfs.store_lock(self.store, rootfs.offline_lock(current, spec, versions, self.channel))

    def releases(self, spec: Spec) -> tuple[ArchiveRelease, ...]:
        """How the archives stand: looked at once, so that all parts of a build are planned from the same state."""
        if spec.archives not in self.probed:
            self.probed[spec.archives] = self.steps.take(
                "Looking at the archives", chroots.probe_archives, spec.archives, site=self.site
            )
        return self.probed[spec.archives]

    def released(self, published: PublishedBuild, devices: Sequence[str]) -> tuple[DeviceResult, ...]:
        """Candidates, images, boots; and a channel moves only to what booted."""
        candidates = [self.candidate(device, published) for device in devices]
        planned = [self.image(candidate) for candidate in candidates]
        self.steps.ahead(*planned)
        images = [self.steps.do(image) for image in planned]
        self.steps.ahead(*(self.boot(image) for image in images if self.firmwares(image)))
        return tuple(self.release(candidate, image) for candidate, image in zip(candidates, images, strict=True))

    def release(self, candidate: Candidate, image: DiskImage) -> DeviceResult:
        boots = self.boots(image)
        title = f"Releasing {self.channel} for {candidate.device}"
        release = self.steps.take(title, system_image.release_candidate, candidate, site=self.site)
        return DeviceResult(device=candidate.device, candidate=candidate, image=image, boots=boots, release=release)

    def candidate(self, device: str, published: PublishedBuild) -> Candidate:
        """The channel's next version. A remembered one that the channel has left behind is history: when an older
        build comes back, it comes as a new version."""
        arguments = published, self.channel, device
        keywords: dict[str, Any] = {
            "description": self.config.description,
            "compression": self.config.compression,
            "delta_bases": self.config.delta_bases,
            "server": self.project.server(self.channel),
            "components": self.components(device),
            "tools": self.tools,
            "site": self.site,
        }
        title = f"Making the next version for {device}"
        candidate = self.steps.take(title, system_image.import_build, *arguments, **keywords)
        if candidate.version >= system_image.newest_version(self.channel, device, self.site):
            return candidate
        anew = system_image.import_build.with_options(refresh_cache=True)
        return self.steps.take(title, anew, *arguments, **keywords)

    def components(self, device: str) -> tuple[Component, ...]:
        """What the channel lays over rootfs and device part, as it is now."""
        configs, architecture = self.config.components, self.project.config.devices[device].architecture
        if not configs:
            return ()
        arguments = configs, device, architecture, self.config.compression
        keywords: dict[str, Any] = {"folder": str(self.project.folder), "tools": self.tools, "site": self.site}
        return self.steps.take("", system_image.gather_components, *arguments, **keywords)

    def image(self, candidate: Candidate) -> Planned[DiskImage]:
        device = self.project.config.devices[candidate.device]
        gadget = disk_image.pack_gadget(self.project.path(device.gadget), store=self.store)
        self.offer(gadget)
        title = f"Making the disk image of {candidate.device}"
        arguments = candidate, gadget, device.architecture, self.tools
        return step(title, images.assemble_image, *arguments, site=self.site)

    def offer(self, gadget: ArtifactRef) -> None:
        """Whoever flashes the image elsewhere takes the gadget by its name, and the same tools: once a run."""
        if gadget not in self.offered:
            self.steps.take("", images.publish_gadget, gadget, self.tools, site=self.site)
        if not self.offered:
            self.steps.take("", chroots.offer_tools, self.tools, site=self.site)
        self.offered.add(gadget)

    def boots(self, image: DiskImage) -> tuple[BootReport, ...]:
        if not self.firmwares(image):
            return ()
        try:
            reports = self.steps.do(self.boot(image))
        except BootError as error:
            show_failed_boot(image.channel, image.device, error)
            raise
        return tuple(reports)

    def boot(self, image: DiskImage) -> Planned[tuple[BootReport, ...]]:
        firmwares = self.firmwares(image)
        title = f"Booting {image.device} with {' and '.join(firmware.upper() for firmware in firmwares)}"
        return step(title, boot_test.boot_test, image, firmwares, site=self.site)

    def firmwares(self, image: DiskImage) -> tuple[Firmware, ...]:
        """Those of the gate that a machine of the image's architecture has."""
        return tuple(name for name in self.config.boot_test if name in FIRMWARES[image.architecture])

    def mark_good(
        self, published: PublishedBuild, architecture: Architecture, devices: tuple[DeviceResult, ...]
    ) -> None:
        evidence = tuple(report for device in devices for report in device.boots)
        title = f"Marking build {published.build_id} good for {architecture}"
        self.steps.take(title, publication.mark_good, published, architecture, evidence, site=self.site)

    def write_pages(self, published: PublishedBuild, devices: Sequence[DeviceResult]) -> None:
        """What people read of all this. Only what was made known changes them: not how it came about."""
        releases = tuple(sorted((device.release for device in devices), key=lambda release: release.device))
        self.steps.take("Writing the pages", pages.write_pages, published, releases, site=self.site)


def require_some(lanes: Sequence[Lane], succeeded: Collection[Lane]) -> None:
    """Raises the failure of an architecture when none is left."""
    failures = [lane.failure for lane in lanes if lane.failure]
    if failures and not succeeded:
        raise failures[0]


def taking(expected: int, *, refresh: bool) -> Taking:
    """Steps are taken here, unless the deployment says who takes them."""
    deployment = os.environ.get(SPREAD)
    return (
        Spread(deployment, refresh=refresh, expected=expected)
        if deployment
        else Steps(refresh=refresh, expected=expected)
    )


def chosen_devices(channel: str, config: ChannelConfig, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The devices of a run, in the channel's order. Raises NotFoundError for one that the channel has not."""
    unknown = [device for device in wanted if device not in config.devices]
    if unknown:
        raise NotFoundError(
            f"device {unknown[0]!r} is not in channel {channel}", resolution=f"its devices: {', '.join(config.devices)}"
        )
    return tuple(device for device in config.devices if not wanted or device in wanted)


def architectures(project: Project, devices: tuple[str, ...]) -> tuple[Architecture, ...]:
    """Sorted, each once."""
    return tuple(sorted({project.config.devices[device].architecture for device in devices}))
