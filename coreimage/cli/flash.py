"""`coreimage flash`: a bootable image of what a channel offers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from coreimage.cli.output import Facts, check_output, document, leave_image, login_key_files, login_of
from coreimage.cli.server import open_session, server_options
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import NotFoundError, UsageError


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
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Where the image goes.")
@server_options
@click.option("--device", help="The device [the first of the channel in the project file].")
@click.option("--revision", type=int, default=0, help="A version, or -N for the Nth before the newest.")
@click.option("--size", type=click.IntRange(min=4), help="Size in GB (10^9 bytes).")
@click.option("--developer-mode", is_flag=True, help="Only with your SSH key: never make a password.")
@click.option("--login-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Your SSH public key.")
@click.option("--force", is_flag=True, help="Replace an existing FILE.")
@pass_settings
def core(
    settings: Settings,
    series: str,
    channel: str,
    output: Path,
    server: str | None,
    keyring: Path | None,
    device: str | None,
    revision: int,
    size: int | None,
    developer_mode: bool,
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

    check_output(output, force=force)
    _check_login(login_key, developer_mode=developer_mode)
    logs.story.info("Determining gadget configuration")
    project = load_project(settings.project_file)
    name = channel if "/" in channel else f"{project.config.project}/{series}/{channel}"
    device = device or settings.devices_of(name)[0]
    if device not in project.config.devices:
        raise NotFoundError(f"device {device!r} is not in the project", where=str(settings.project_file))
    described = project.config.devices[device]
    session = open_session(settings, server, keyring)

    def make(image: Path, work: Path) -> Facts:
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
            on_step=logs.story.info,
        )
        if developer_mode:
            logs.story.info("Enabling developer mode...")
        return Facts(described.architecture, name, made.identity.version)

    facts, access = leave_image(settings, output, make, login_key)
    if settings.as_json:
        click.echo(json.dumps(document(output, facts, access)))


def _check_login(login_key: Path | None, *, developer_mode: bool) -> None:
    files = login_key_files(login_key)
    login_of(files)
    if developer_mode and not files:
        raise UsageError(
            "developer mode wants an SSH key, and ~/.ssh has none",
            resolution="make one with `ssh-keygen -t ed25519`, or name one with --login-key",
        )
