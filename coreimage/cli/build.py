"""`coreimage build`: a channel, from its archives to its release."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coreimage.cli.output import check_output, leave_image
from coreimage.cli.settings import Settings
from coreimage.errors import UsageError

if TYPE_CHECKING:
    from flows.result import BuildResult


@click.command()
@click.argument("channel")
@click.option("--device", "devices", multiple=True, metavar="D", help="Only this device; may be repeated.")
@click.option("--refresh", is_flag=True, help="Do every step anew, whatever is remembered.")
@click.option("--offline", is_flag=True, help="From the current lock and the .debs in the store; asks no archive.")
@click.option("--explain", is_flag=True, help="Say which steps would run, and why; do none of them.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Leave a bootable image here.")
@click.option("--login-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Your SSH public key.")
@click.option("--force", is_flag=True, help="Replace an existing OUTPUT.")
@click.pass_obj
def build(
    settings: Settings,
    channel: str,
    devices: tuple[str, ...],
    refresh: bool,
    offline: bool,
    explain: bool,
    output: Path | None,
    login_key: Path | None,
    force: bool,
) -> None:
    """Build CHANNEL, test that it boots, and release it.

    Run again with nothing changed, it only looks at the archives.

    \b
    Example:
      coreimage build debian-core/13/edge --device generic_amd64 --output x86.img
    """
    from coreimage.config import load_project  # noqa: PLC0415

    if len(load_project(settings.project_file).channel(channel).devices) != 1 != len(devices) and output:
        raise UsageError("an image is of one device", where=channel, resolution="name it with --device")
    if explain:
        foresee(settings, channel, devices, offline=offline)
        return
    check_output(output, force=force)
    result = run_flow(settings, channel, devices, refresh=refresh, offline=offline)
    if output:
        leave_image(settings, output, lambda path, _: _image(settings, result, path), login_key)
    else:
        click.echo(result.model_dump_json() if settings.as_json else summary(result))


def run_flow(
    settings: Settings, channel: str, devices: tuple[str, ...], *, refresh: bool, offline: bool = False
) -> BuildResult:
    """Runs the flow on the Prefect server that is named, or on one of our own for as long as it takes."""
    from coreimage import logs  # noqa: PLC0415
    from coreimage.cli.keys import make_keys  # noqa: PLC0415
    from coreimage.cli.prefect_server import prefect_api  # noqa: PLC0415

    logs.show(settings.log_level)
    make_keys(settings.keys_folder)
    with prefect_api(settings.state("prefect"), debug=settings.debug):
        from flows.build import build_channel  # noqa: PLC0415
        from flows.reporting import finish_reporting  # noqa: PLC0415

        logs.show(settings.log_level)
        try:
            return build_channel(
                channel,
                project_file=str(settings.project_file),
                store_url=settings.store_url,
                keys_folder=str(settings.keys_folder),
                devices=devices,
                refresh=refresh,
                offline=offline,
            )
        finally:
            finish_reporting()


def foresee(settings: Settings, channel: str, devices: tuple[str, ...], *, offline: bool) -> None:
    """Needs no Prefect server: only the records that earlier runs left."""
    from coreimage import logs  # noqa: PLC0415
    from coreimage.cli.prefect_server import prefect_settings  # noqa: PLC0415

    prefect_settings(settings.state("prefect"), debug=settings.debug)
    from flows.explain import explain  # noqa: PLC0415
    from tasks.site import Site  # noqa: PLC0415

    logs.show(settings.log_level)
    site = Site(store_url=settings.store_url, keys_folder=str(settings.keys_folder), channel=channel, offline=offline)
    stages = explain(channel, str(settings.project_file), site, devices)
    lines = [stage.model_dump_json() for stage in stages] if settings.as_json else [str(stage) for stage in stages]
    click.echo(f"[{','.join(lines)}]" if settings.as_json else "\n".join(lines))


def summary(result: BuildResult) -> str:
    lines = [f"Channel: {result.channel}", f"Build: {result.published.build_id}"]
    lines += [f"Device: {device.device}, version {device.release.version}" for device in result.devices]
    return "\n".join([*lines, "Nothing was built: all is as it was." if result.unchanged else "Released."])


def _image(settings: Settings, result: BuildResult, path: Path) -> dict[str, str]:
    from coreimage.disk_image import fetch_image  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    device = result.devices[0]
    fetch_image(device.image, path, store=open_store(settings.store_url))
    version = str(device.release.version)
    return {"Architecture": device.image.architecture, "Channel": result.channel, "Version": version}
