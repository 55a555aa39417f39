"""`coreimage flash core`: a bootable image of what a channel offers, or of local files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.flash_options import FlashOptions
from coreimage.cli.launch import launch_commands
from coreimage.cli.output import Access, document, login_key_files, login_with, summary
from coreimage.cli.removed import removed_option
from coreimage.cli.settings import Settings, pass_settings
from coreimage.cli.tree_options import tree_options
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.disk_image import AssembledImage, CachedImages, GadgetDescription
    from coreimage.operations.finish_image import RawImage
    from coreimage.operations.flash_sources import FlashSources
    from coreimage.operations.local_parts import LocalPart
    from coreimage.project.config import Project

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_MINIMUM_GB = 4


def _check_size(_context: click.Context, _option: click.Parameter, value: int | None) -> int | None:
    if value is not None and value < _MINIMUM_GB:
        raise UsageError(f"minimum size for core is {_MINIMUM_GB}", where=f"--size {value}", resolution="name more GB")
    return value


@click.command()
@click.argument("series")
@click.option("--channel", default="stable", show_default=True, help="`edge`, or whole: `debian-core/13/edge`.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where the image goes.")
@tree_options
@click.option("--device", help="The device [the gadget's, else the first of the channel in the project file].")
@click.option(
    "--oem", metavar="NAME|FILE|DIR", help="The gadget: its name on the server, a snap, a folder [the device's]."
)
@click.option("--revision", type=int, default=0, help="A version, or -N for the Nth before the newest.")
@click.option("-s", "--size", type=int, callback=_check_size, help="Size in GB (10^9 bytes) [4].")
@click.option("--rootfs-part", type=_FILE, help="A rootfs tarball of this machine instead of the server's.")
@click.option("--device-part", type=_FILE, help="A device tarball of this machine instead of the server's.")
@click.option(
    "--image-version", type=click.IntRange(0, 65535), help="With both parts: what the image calls itself [0]."
)
@click.option("--offline", is_flag=True, help="Ask no server; needs both parts.")
@click.option("--require-signed", is_flag=True, help="Refuse parts of this machine: nobody signed them.")
@click.option("--developer-mode", is_flag=True, help="Only with your SSH key: never make a password.")
@click.option("--enable-ssh", is_flag=True, help="Let the SSH server take passwords, too; else only keys.")
@click.option(
    "--cloud", is_flag=True, help="Put no login in: the image's own cloud-init makes one. (2015's, deprecated)"
)
@click.option("--login-key", type=_FILE, help="Your SSH public key.")
@click.option("--cloud-init", type=_FILE, metavar="FILE", help="user-data: #cloud-config or a script.")
@click.option("--network-config", type=_FILE, metavar="FILE", help="cloud-init's network-config, version 2.")
@click.option("--hostname", help="The device's name [the project's].")
@click.option(
    "--format",
    "form",
    type=click.Choice(["raw", "qcow2", "vmdk"]),
    default="raw",
    show_default=True,
    help="Of the image.",
)
@click.option("--compress", type=click.Choice(["xz", "zst", "gz"]), help="Compress a raw image.")
@click.option("--bmap/--no-bmap", default=True, show_default=True, help="A block map for bmaptool beside a raw image.")
@click.option("--download-only", is_flag=True, help="Only leave the verified files here.")
@click.option("--clean-cache", is_flag=True, help="Empty the cache of downloads first.")
@click.option("--host-tools", is_flag=True, help="Make it with this machine's mke2fs, mtools, GRUB, … [the build's].")
@click.option("-v", "--verbose", is_flag=True, help="Tell each step.")
@click.option("--force", is_flag=True, help="Replace an existing FILE.")
@removed_option("--store")
@removed_option("--install", multiple=True)
@removed_option("--tls-skip-verify", is_flag=True)
@pass_settings
def core(settings: Settings, **given: Any) -> None:
    """Make a bootable image of SERIES from a channel, every file verified from the keyring down.

    A server other than the own store needs --keyring: the archive-master keyring that you trust. With --rootfs-part
    and --device-part the image is made of files of this machine, and no server is needed.

    \b
    Example:
      coreimage flash core 13 --channel edge --output x86.img
      coreimage flash core 13 --channel edge --output x86.qcow2 --format qcow2 --revision -1 --developer-mode
      coreimage flash core 13 --channel edge --output my.img --rootfs-part my.tar.gz --device-part my.device.tar.gz
    """
    from coreimage import logs  # noqa: PLC0415

    options = FlashOptions(**given)
    options.check()
    cancelled = threading.Event()
    logs.story.info("Determining oem configuration")
    with _open_sources(settings, options, cancelled) as (sources, images):
        if options.download_only:
            _download(settings, options, sources, cancelled)
        else:
            _make(settings, options, sources, images, cancelled)


@contextmanager
def _open_sources(
    settings: Settings, options: FlashOptions, cancelled: threading.Event
) -> Iterator[tuple[FlashSources, CachedImages]]:
    """Yield what the image is made of and with, and the cache of finished ones; downloads end with the block."""
    from coreimage import http  # noqa: PLC0415
    from coreimage.disk_image import CachedImages  # noqa: PLC0415
    from coreimage.operations.flash_sources import FlashSources  # noqa: PLC0415

    downloads = http.DownloadCache(http.default_folder(), settings.cache_bytes)
    images = CachedImages(http.default_folder().with_name("images"), settings.cache_bytes)
    if options.clean_cache:
        downloads.clear()
        images.clear()
    fetch = http.CachedFetch(http.Downloader(progress=http.show_each_file(), cancelled=cancelled), downloads)
    project, channel = _project(settings, options), options.channel
    if "/" not in channel:
        channel = f"{project.config.project if project else ''}/{options.series}/{channel}"
    sources = FlashSources(
        tree=options.source,
        fetch=fetch,
        channel=channel,
        project=project if project and channel in project.config.channels else None,
        device_option=options.device,
        oem=options.oem,
        needs_no_server=options.needs_no_server,
        wants_machine_tools=options.host_tools,
    )
    try:
        yield sources, images
    finally:
        cancelled.set()


def _project(settings: Settings, options: FlashOptions) -> Project | None:
    """Load the project file, which is not needed for a channel with its whole name on somebody's server."""
    if options.source.server and settings.project is None and "/" in options.channel:
        return None
    return settings.load_project()


def _make(
    settings: Settings,
    options: FlashOptions,
    sources: FlashSources,
    images: CachedImages,
    cancelled: threading.Event,
) -> None:
    from coreimage.logs import story  # noqa: PLC0415
    from coreimage.operations.finish_image import Finish, RawImage, finish_image  # noqa: PLC0415

    assert options.output is not None  # noqa: S101
    customisation, user = options.customisation()
    key_files = login_key_files(options.login_key)
    finish = Finish(
        login=None if options.cloud else login_with(key_files, user.ssh_keys, user.password),
        form=options.form,
        compression=options.compress,
        bmap=options.bmap and options.form == "raw",
        customisation=customisation,
    )

    def make(raw: Path, work: Path) -> RawImage:
        folder, gadget = sources.open_gadget(work)
        image = _flash(options, sources, images, folder, gadget, raw, work, cancelled)
        if options.developer_mode:
            story.info("Enabling developer mode...")
        identity = image.identity
        return RawImage(gadget.architecture, sources.channel, identity.version, sources.tools, identity.epoch)

    image = finish_image(options.output, make, finish)
    access = Access(finish.login, key_files, *launch_commands(options.output, image.architecture, finish))
    if settings.as_json:
        click.echo(json.dumps(document(options.output, image, access)))
    else:
        click.echo(summary(options.output, image, access))


def _flash(
    options: FlashOptions,
    sources: FlashSources,
    images: CachedImages,
    gadget_folder: Path,
    gadget: GadgetDescription,
    raw: Path,
    work: Path,
    cancelled: threading.Event,
) -> AssembledImage:
    from coreimage import disk_image  # noqa: PLC0415
    from coreimage.logs import story  # noqa: PLC0415
    from coreimage.operations.flash import ImageRecipe, flash, flash_local  # noqa: PLC0415

    recipe = ImageRecipe(
        gadget_folder=gadget_folder,
        output=raw,
        run=sources.tools.run,
        work_folder=work,
        size_bytes=disk_image.image_size_bytes(options.size) if options.size else None,
        options={"developer-mode": options.developer_mode, "oem": options.oem and gadget.name},
        on_detail=(lambda step: story.info(f"  {step}")) if options.verbose else None,
        tools_tree=sources.tools.tree_sha256,
    )
    local = _local_parts(options, work)
    channel, device, architecture = sources.channel, sources.device, gadget.architecture
    if options.needs_no_server:
        version = options.image_version or 0
        return flash_local(channel, device, architecture, version, recipe, local=local, on_step=story.info)
    return flash(
        sources.session,
        channel,
        device,
        architecture,
        recipe,
        revision=options.revision,
        local=local,
        on_step=story.info,
        cancel=cancelled.set,
        cache=images,
    )


def _local_parts(options: FlashOptions, work: Path) -> list[LocalPart]:
    from coreimage.logs import story  # noqa: PLC0415
    from coreimage.operations.local_parts import Kind, local_part  # noqa: PLC0415

    named: list[tuple[Kind, Path | None]] = [("rootfs", options.rootfs_part), ("device", options.device_part)]
    parts = []
    for kind, path in named:
        if path:
            story.warning(f"{path} is a {kind} part of this machine: nobody signed it, and the image gets no updates")
            parts.append(local_part(kind, path, work))
    return parts


def _download(settings: Settings, options: FlashOptions, sources: FlashSources, cancelled: threading.Event) -> None:
    """Leave the image's files in the working directory, as 0.20 of ubuntu-device-flash did."""
    from coreimage.logs import story  # noqa: PLC0415
    from coreimage.operations.flash import download_files  # noqa: PLC0415
    from coreimage.system_image.web import client_errors  # noqa: PLC0415

    with client_errors():
        story.info("Fetching information from server...")
        session, channel, device = sources.session, sources.channel, sources.device
        image = session.select(channel, device, options.revision)
        story.info("Downloading...")
        files = download_files(session, channel, device, image, Path.cwd(), cancel=cancelled.set)
    names = [file.name for file in files]
    click.echo(json.dumps({"version": image.version, "files": names}) if settings.as_json else "\n".join(names))
