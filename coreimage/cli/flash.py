"""`coreimage flash`: a bootable image of what a channel offers, or of local files."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.flash_sources import Source, open_source
from coreimage.cli.output import Facts, Finish, check_output, document, leave_image, login_key_files, login_of
from coreimage.cli.server import server_options
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from coreimage.disk_image import AssembledImage, Compression, Customisation, Form, GadgetDescription, UserData
    from coreimage.local_parts import LocalPart

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_MINIMUM_GB = 4

_REFUSED = {
    "--store": "the snap store of 2015 is gone: --oem FILE is a local gadget, `coreimage --store URL …` our store",
    "--install": "snaps are not installed any more: name packages in the project file, and build",
    "--tls-skip-verify": "certificates are always checked: name a CA of your own in REQUESTS_CA_BUNDLE",
}


@click.group()
@click.option("--server", metavar="URL|DIR", help="As the same option of the command that follows.")
@click.option("--revision", type=int, help="As the same option of the command that follows.")
@click.option("--download-only", is_flag=True, help="As the same option of the command that follows.")
@click.option("--clean-cache", is_flag=True, help="As the same option of the command that follows.")
@click.option("-v", "--verbose", is_flag=True, help="As the same option of the command that follows.")
@click.pass_context
def flash(context: click.Context, /, **common: Any) -> None:
    """Make images of what channels offer.

    \b
    Example:
      coreimage flash core 13 --channel edge --output x86.img
    """
    context.default_map = {"core": {name: value for name, value in common.items() if value}}


def _refuse(_context: click.Context, option: click.Parameter, value: object) -> None:
    if value:
        name = option.opts[0]
        raise UsageError(f"{name} is gone", resolution=_REFUSED[name])


def _size(_context: click.Context, _option: click.Parameter, value: int | None) -> int | None:
    if value is not None and value < _MINIMUM_GB:
        raise UsageError(f"minimum size for core is {_MINIMUM_GB}", where=f"--size {value}", resolution="name more GB")
    return value


@dataclass(frozen=True)
class Wanted:
    """What the command line says."""

    series: str
    channel: str
    output: Path | None
    server: str | None
    keyring: Path | None
    device: str | None
    oem: str | None
    revision: int
    size: int | None
    rootfs_part: Path | None
    device_part: Path | None
    image_version: int | None
    offline: bool
    require_signed: bool
    developer_mode: bool
    enable_ssh: bool
    cloud: bool
    login_key: Path | None
    cloud_init: Path | None
    network_config: Path | None
    hostname: str | None
    form: Form
    compress: Compression | None
    bmap: bool
    download_only: bool
    clean_cache: bool
    verbose: bool
    host_tools: bool
    force: bool

    @property
    def local(self) -> bool:
        """Whether no server is needed."""
        return self.rootfs_part is not None and self.device_part is not None


@flash.command()
@click.argument("series")
@click.option("--channel", default="stable", show_default=True, help="`edge`, or whole: `debian-core/13/edge`.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where the image goes.")
@server_options
@click.option("--device", help="The device [the gadget's, else the first of the channel in the project file].")
@click.option(
    "--oem", metavar="NAME|FILE|DIR", help="The gadget: its name on the server, a snap, a folder [the device's]."
)
@click.option("--revision", type=int, default=0, help="A version, or -N for the Nth before the newest.")
@click.option("-s", "--size", type=int, callback=_size, help="Size in GB (10^9 bytes) [4].")
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
@click.option("--store", hidden=True, callback=_refuse, expose_value=False, help="Gone.")
@click.option("--install", hidden=True, multiple=True, callback=_refuse, expose_value=False, help="Gone.")
@click.option("--tls-skip-verify", hidden=True, is_flag=True, callback=_refuse, expose_value=False, help="Gone.")
@pass_settings
def core(settings: Settings, **options: Any) -> None:
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

    wanted = Wanted(**options)
    _check(wanted)
    cancelled = threading.Event()
    logs.story.info("Determining oem configuration")
    with open_source(settings, wanted, cancelled) as source:
        if wanted.download_only:
            _download(settings, wanted, source, cancelled)
        else:
            _make(settings, wanted, source, cancelled)


def _check(wanted: Wanted) -> None:
    """Everything that can be wrong with a command line, before anything is asked or made."""
    if wanted.output is None and not wanted.download_only:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if not wanted.download_only:
        check_output(wanted.output, force=wanted.force)
    if wanted.cloud and (wanted.enable_ssh or wanted.developer_mode):
        raise UsageError("--cloud and --enable-ssh or --developer-mode cannot be used together")
    if wanted.compress and wanted.form != "raw":
        raise UsageError(f"{wanted.form} is small already", resolution="leave out --compress, or use --format raw")
    if wanted.offline and not wanted.local:
        raise UsageError("--offline needs --rootfs-part and --device-part", resolution="or leave out --offline")
    if wanted.image_version is not None and not wanted.local:
        raise UsageError(
            "--image-version needs --rootfs-part and --device-part", resolution="--revision chooses the server's"
        )
    if wanted.require_signed and (wanted.rootfs_part or wanted.device_part):
        raise UsageError("nobody signed a part of this machine", resolution="leave out --require-signed, or the parts")
    _customisation(wanted)
    _check_login(wanted)


def _check_login(wanted: Wanted) -> None:
    files = login_key_files(wanted.login_key)
    login_of(files)
    if wanted.developer_mode and not files:
        raise UsageError(
            "developer mode wants an SSH key, and ~/.ssh has none",
            resolution="make one with `ssh-keygen -t ed25519`, or name one with --login-key",
        )


def _customisation(wanted: Wanted) -> tuple[Customisation, UserData]:
    """Raises ConfigError for what is wrong in the files that were named, UsageError for a host name that is none."""
    from coreimage.disk_image import (  # noqa: PLC0415
        Customisation,
        UserData,
        joined,
        parse_network_config,
        parse_user_data,
    )

    user = UserData()
    if wanted.cloud_init:
        user = parse_user_data(wanted.cloud_init.read_text("utf-8"), str(wanted.cloud_init))
    network = Customisation()
    if wanted.network_config:
        network = parse_network_config(wanted.network_config.read_text("utf-8"), str(wanted.network_config))
    try:
        own = Customisation(hostname=wanted.hostname or "", ssh_passwords=True if wanted.enable_ssh else None)
    except ValueError as error:
        raise UsageError(f"{wanted.hostname!r} is no host name", resolution="use a-z, 0-9 and -") from error
    return joined([Customisation(ssh_passwords=False), user.customisation, network, own]), user


def _make(settings: Settings, wanted: Wanted, source: Source, cancelled: threading.Event) -> None:
    from coreimage.logs import story  # noqa: PLC0415

    assert wanted.output is not None  # noqa: S101
    customisation, user = _customisation(wanted)

    def make(image: Path, work: Path) -> Facts:
        gadget, found = source.gadget(work)
        made = _flash(wanted, source, gadget, found, (image, work), cancelled)
        if wanted.developer_mode:
            story.info("Enabling developer mode...")
        return Facts(found.architecture, source.channel, made.identity.version, source.tools, made.identity.epoch)

    finish = Finish(
        form=wanted.form,
        compression=wanted.compress,
        bmap=wanted.bmap and wanted.form == "raw",
        login=not wanted.cloud,
        ssh_keys=user.ssh_keys,
        password=user.password,
        customisation=customisation,
    )
    facts, access = leave_image(settings, wanted.output, make, wanted.login_key, finish)
    if settings.as_json:
        click.echo(json.dumps(document(wanted.output, facts, access)))


def _flash(
    wanted: Wanted,
    source: Source,
    gadget: Path,
    found: GadgetDescription,
    places: tuple[Path, Path],
    cancelled: threading.Event,
) -> AssembledImage:
    from coreimage import disk_image  # noqa: PLC0415
    from coreimage import flash as images  # noqa: PLC0415
    from coreimage.logs import story  # noqa: PLC0415

    image, work = places
    making = images.Making(
        gadget_folder=gadget,
        output=image,
        run=source.tools.run,
        work_folder=work,
        size_bytes=disk_image.image_size_bytes(wanted.size) if wanted.size else None,
        options={"developer-mode": wanted.developer_mode, "oem": wanted.oem and found.name},
        on_detail=(lambda step: story.info(f"  {step}")) if wanted.verbose else None,
        tools_tree=source.tools.tree,
    )
    local = _local_parts(wanted, work)
    of = source.channel, source.device, found.architecture
    if wanted.local:
        return images.flash_local(*of, wanted.image_version or 0, making, local=local, on_step=story.info)
    return images.flash(
        source.session,
        *of,
        making,
        revision=wanted.revision,
        local=local,
        on_step=story.info,
        cancel=cancelled.set,
        kept=source.kept,
    )


def _local_parts(wanted: Wanted, work: Path) -> list[LocalPart]:
    from coreimage.local_parts import Kind, local_part  # noqa: PLC0415
    from coreimage.logs import story  # noqa: PLC0415

    named: list[tuple[Kind, Path | None]] = [("rootfs", wanted.rootfs_part), ("device", wanted.device_part)]
    parts = []
    for kind, path in named:
        if path:
            story.warning(f"{path} is a {kind} part of this machine: nobody signed it, and the image gets no updates")
            parts.append(local_part(kind, path, work))
    return parts


def _download(settings: Settings, wanted: Wanted, source: Source, cancelled: threading.Event) -> None:
    """What 0.20 of ubuntu-device-flash did: the files of the image, in the working directory."""
    from coreimage.flash import download_files  # noqa: PLC0415
    from coreimage.image_server import client_errors  # noqa: PLC0415
    from coreimage.logs import story  # noqa: PLC0415

    with client_errors():
        story.info("Fetching information from server...")
        image = source.session.select(source.channel, source.device, wanted.revision)
        story.info("Downloading...")
        files = download_files(source.session, source.channel, source.device, image, Path.cwd(), cancel=cancelled.set)
    names = [file.name for file in files]
    click.echo(json.dumps({"version": image.version, "files": names}) if settings.as_json else "\n".join(names))
