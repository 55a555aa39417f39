"""`coreimage flash`: a bootable image of what a channel offers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from coreimage.cli.output import check_output, leave_image
from coreimage.cli.settings import Settings
from coreimage.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from coreimage.client import Session

_KEYRING = "gpg/archive-master.tar.xz"


@click.group()
def flash() -> None:
    """Make images of what channels offer.

    \b
    Example:
      coreimage flash core 13 --channel edge --output x86.img
    """


@flash.command()
@click.argument("series")
@click.option("--channel", required=True, help="`edge`, or whole: `debian-core/13/edge`.")
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--server", metavar="URL|DIR", help="Web root of a system-image tree [the store's].")
@click.option("--device", help="The device [the first of the channel in the project file].")
@click.option("--revision", type=int, default=0, help="A version, or -N for the Nth before the newest.")
@click.option("--size", type=click.IntRange(min=4), help="Size in GB (10^9 bytes).")
@click.option("--keyring", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="archive-master.tar.xz.")
@click.option("--login-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Your SSH public key.")
@click.option("--force", is_flag=True, help="Replace an existing OUTPUT.")
@click.pass_obj
def core(
    settings: Settings,
    series: str,
    channel: str,
    output: Path,
    server: str | None,
    device: str | None,
    revision: int,
    size: int | None,
    keyring: Path | None,
    login_key: Path | None,
    force: bool,
) -> None:
    """Make a bootable image of SERIES from a channel, every file verified from the keyring down.

    A server other than the own store needs --keyring: the archive-master keyring that you trust.

    \b
    Example:
      coreimage flash core 13 --channel edge --output x86.img --revision -1
    """
    from coreimage import disk_image, logs  # noqa: PLC0415
    from coreimage.config import load_project  # noqa: PLC0415
    from coreimage.flash import flash as flash_image  # noqa: PLC0415
    from coreimage.process import run  # noqa: PLC0415

    logs.show(settings.log_level)
    check_output(output, force=force)
    _say(settings, "Determining gadget configuration")
    project = load_project(settings.project_file)
    name = channel if "/" in channel else f"{project.config.project}/{series}/{channel}"
    device = device or project.channel(name).devices[0]
    if device not in project.config.devices:
        raise NotFoundError(f"device {device!r} is not in the project", where=str(settings.project_file))
    described = project.config.devices[device]
    session = _session(settings, server, keyring)

    def make(image: Path, work: Path) -> dict[str, str]:
        made = flash_image(
            session,
            name,
            device,
            described.architecture,
            gadget_folder=project.path(described.gadget),
            output=image,
            run=run,
            work_folder=work,
            revision=revision,
            size_bytes=disk_image.image_size_bytes(size) if size else None,
            on_step=lambda step: _say(settings, step),
        )
        version = str(made.identity.version)
        return {"Architecture": described.architecture, "Channel": name, "Version": version}

    leave_image(settings, output, make, login_key)


def _session(settings: Settings, server: str | None, keyring: Path | None) -> Session:
    """Of a server: with the keyring that was named. Of the own store: with its own, which is as trusted as the disk."""
    from coreimage import http  # noqa: PLC0415
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
        return open_server(url, keyring.read_bytes(), fetch=http.Downloader())
    store = open_store(settings.store_url)
    if keyring is not None:
        return Session(StoreWeb(store), GpgvVerify(), keyring.read_bytes(), time.time)
    try:
        with store.open(WEB_ROOT + _KEYRING) as file:
            return Session(StoreWeb(store), GpgvVerify(), file.read(), time.time)
    except NotFoundError as error:
        raise NotFoundError(
            "the store has no channels yet", where=store.url, resolution="build one: `coreimage build CHANNEL`"
        ) from error


def _say(settings: Settings, step: str) -> None:
    if not settings.quiet:
        click.echo(step, err=True)
