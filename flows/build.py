"""The build of a channel, from its archives to its release: `build_channel` calls all tasks in their order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from coreimage import logs
from coreimage.model import (
    Architecture,
    ArchiveRelease,
    ArtifactRef,
    BootReport,
    Candidate,
    CustomBuild,
    DeviceBuild,
    DiskImage,
    PublishedBuild,
    Release,
    RootfsBuild,
    ToolsTree,
)
from coreimage.rootfs import ArchiveSpec
from flows.channel_build import ChannelBuild, Part
from flows.report.build import announce_build, name_run, report_build
from flows.report.result import BuildResult
from flows.running.architecture import ArchitectureBuild, succeeded
from flows.running.remote import task_runner
from flows.running.schedule import drop_missed
from tasks.boot_test import boot_test
from tasks.disk_image import assemble_image, pack_gadget, publish_gadget
from tasks.pages import write_pages
from tasks.progress import Progress
from tasks.publication import mark_good, publish_build
from tasks.rootfs import (
    ChosenLock,
    build_custom,
    build_device,
    build_rootfs,
    build_tools,
    current_lock,
    offer_tools,
    plan_packages,
    plan_tools,
    probe_archives,
    record_lock,
    record_release,
)
from tasks.site import Site
from tasks.system_image import gather_components, import_build, publish_keyrings, release_candidate

Archives: TypeAlias = Mapping[tuple[ArchiveSpec, ...], PrefectFuture[tuple[ArchiveRelease, ...]]]
"""The state of each set of archives, read once, so that all parts of a build are planned from the same state."""


@flow(
    name="build-channel",
    flow_run_name="{channel}",
    persist_result=True,
    result_serializer="json",
    on_running=[drop_missed],
    task_runner=task_runner(os.environ),
)
def build_channel(
    channel: str,
    project_file: str = "",
    store_url: str = "",
    keys_folder: str = "",
    devices: tuple[str, ...] = (),
    refresh: bool = False,
    offline: bool = False,
    keep_locks: bool = False,
) -> BuildResult:
    """Build a channel from its archives, and release it once its images boot.

    A run that finds nothing changed only looks at the archives: the result of every other task is remembered, and no
    build id or version is used up. When a boot test fails, the run fails and the channel stays as it was. Architectures
    are built side by side; one that the project file does not require may fail, and its last build is carried over.

    Args:
        channel: The channel to build.
        project_file: The project file; empty for COREIMAGE_PROJECT of the worker.
        store_url: Where artifacts and channels are; empty for COREIMAGE_STORE of the worker.
        keys_folder: The folder of the signing keys; empty for COREIMAGE_KEYS of the worker.
        devices: The only devices to build; empty builds all devices of the channel.
        refresh: Run every task anew, even where its result is remembered.
        offline: Build from the current locks and the packages in the store, without asking any archive.
        keep_locks: Build from the current locks, even where the archives have newer packages.

    Raises:
        BootError: An image did not boot.
    """
    logs.configure()
    site = Site.here(store_url=store_url, keys_folder=keys_folder, channel=channel, offline=offline)
    build = ChannelBuild.open(channel, project_file, devices, site)
    architectures = build.architecture_builds()

    with (
        temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True} if refresh else {}),
        Progress(build.expected_tasks).shown(),
    ):
        announce_build.submit(channel, build.devices, site=site)
        wanted = () if keep_locks or offline else build.archives()
        archives = {each: probe_archives.submit(each, site=site) for each in wanted}
        tools_lock, chosen_tools = choose_packages(build.tools(), archives, None, site)
        tools = build_tools.submit(tools_lock, site=site)

        parts: dict[ArchitectureBuild, Parts] = {}
        for each in architectures:
            with each.scope():
                parts[each] = build_parts(build, each.architecture, archives, tools)
        built = succeeded(architectures)

        published = publish_build.submit(
            project=build.project.config.project,
            series=build.config.series,
            codename=build.series.codename,
            product=build.series.product,
            image_type=build.config.image_type,
            rootfs=tuple(parts[each].rootfs for each in built),
            devices=tuple(device for each in built for device in parts[each].devices),
            custom=tuple(parts[each].custom for each in built if parts[each].custom),
            carry=tuple(each.architecture for each in architectures if each not in built),
            site=site,
        )
        name_run.submit(channel, build.devices, published)
        publish_keyrings.submit(site=site)
        offer_tools.submit(tools, site=site)

        releases: dict[ArchitectureBuild, Mapping[str, DeviceRelease]] = {}
        for each in built:
            with each.scope():
                releases[each] = release_devices(build, each.architecture, published, tools)
        finished = succeeded(built)

        released = {name: releases[each][name] for name in build.devices for each in finished if name in releases[each]}
        write_pages.submit(published, tuple(released[name].release for name in sorted(released)), site=site)
        report = report_build.submit(
            channel,
            published,
            candidates={name: device.candidate for name, device in released.items()},
            images={name: device.image for name, device in released.items()},
            boots={name: device.boots for name, device in released.items()},
            releases={name: device.release for name, device in released.items()},
            locks=(chosen_tools, *(lock for each in built for lock in parts[each].locks)),
            architectures=tuple(each.outcome() for each in architectures),
            web=build.project.config.web,
            site=site,
        )
        # After the report, so that the changes which a failed run did not report are in the next one.
        record_release.submit((chosen_tools, *(lock for each in finished for lock in parts[each].locks)), site=site)
    return report.result()


class Parts(NamedTuple):
    """What one architecture of a build consists of, and the locks that it is built from."""

    rootfs: PrefectFuture[RootfsBuild]
    devices: tuple[PrefectFuture[DeviceBuild], ...]
    custom: PrefectFuture[CustomBuild] | None
    locks: tuple[PrefectFuture[ChosenLock], ...]


def build_parts(
    build: ChannelBuild, architecture: Architecture, archives: Archives, tools: PrefectFuture[ToolsTree]
) -> Parts:
    """Submit the choice of all packages of one architecture, then its rootfs, device parts and product files."""
    site = build.site
    parts = [build.rootfs(architecture), *map(build.device, build.devices_of(architecture))]
    locks, chosen = zip(*(choose_packages(part, archives, tools, site) for part in parts), strict=True)
    rootfs = build_rootfs.submit(parts[0].spec, locks[0], tools, site=site)
    devices = [
        build_device.submit(part.spec, lock, tools, site=site) for part, lock in zip(parts[1:], locks[1:], strict=True)
    ]
    custom = (
        build_custom.submit(build.project, build.channel, architecture, locks[0], tools, site=site)
        if build.series.custom
        else None
    )
    return Parts(rootfs, tuple(devices), custom, chosen)


def choose_packages(
    part: Part, archives: Archives, tools: PrefectFuture[ToolsTree] | None, site: Site
) -> tuple[PrefectFuture[ArtifactRef], PrefectFuture[ChosenLock]]:
    """Submit the choice of a part's packages, from the state of its archives or from its current lock.

    Args:
        part: The part.
        archives: The state of the archives; a part whose archives are not among them keeps its current lock.
        tools: The tools that plan; None for the tools themselves, which the machine's own programs plan.
        site: Where the run works.

    Returns:
        The lock, and the lock with its package changes for the report.
    """
    current = part.current(site.store())
    if part.spec.archives not in archives:
        lock = current_lock.submit(part.name, part.spec, current, tools, site=site)
    elif tools is None:
        lock = plan_tools.submit(part.spec, archives[part.spec.archives], current, site=site)
    else:
        lock = plan_packages.submit(part.name, part.spec, archives[part.spec.archives], current, tools, site=site)
    return lock, record_lock.submit(part.name, part.pointer, lock, site=site)


class DeviceRelease(NamedTuple):
    """One device of a build, from its candidate to its release. `boots` is empty for a channel without a boot test."""

    candidate: PrefectFuture[Candidate]
    image: PrefectFuture[DiskImage]
    boots: PrefectFuture[tuple[BootReport, ...]] | tuple[BootReport, ...]
    release: PrefectFuture[Release]


def release_devices(
    build: ChannelBuild,
    architecture: Architecture,
    published: PrefectFuture[PublishedBuild],
    tools: PrefectFuture[ToolsTree],
) -> Mapping[str, DeviceRelease]:
    """Submit the candidate, image, boot test and release of each device of an architecture.

    The channel moves only to candidates that booted, and the build is marked good only once all devices are released.
    """
    site, config, channel, devices = build.site, build.config, build.channel, build.devices_of(architecture)
    candidates, images, released = {}, {}, {}
    for device in devices:
        components = (
            gather_components.submit(
                config.components,
                device,
                architecture,
                config.compression,
                folder=str(build.project.folder),
                tools=tools,
                site=site,
            )
            if config.components
            else ()
        )
        candidates[device] = import_build.submit(
            published,
            channel,
            device,
            description=config.description,
            compression=config.compression,
            delta_bases=config.delta_bases,
            server=build.project.server(channel),
            components=components,
            tools=tools,
            site=site,
        )
    folders = {device: build.gadget_folder(device) for device in devices}
    gadgets = {folder: pack_gadget.submit(folder, site=site) for folder in dict.fromkeys(folders.values())}
    for gadget in gadgets.values():
        # `flash` on another machine downloads the gadget by its name.
        publish_gadget.submit(gadget, tools, site=site)
    for device in devices:
        gadget = gadgets[folders[device]]
        images[device] = assemble_image.submit(candidates[device], gadget, architecture, tools, site=site)
    firmwares = build.firmwares(architecture)
    for device in devices:
        boots = boot_test.submit(images[device], firmwares, site=site) if firmwares else ()
        release = release_candidate.submit(candidates[device], boots, site=site)
        released[device] = DeviceRelease(candidates[device], images[device], boots, release)
    mark_good.submit(
        published,
        architecture,
        [device.boots for device in released.values()],
        [device.release for device in released.values()],
        site=site,
    )
    return released
