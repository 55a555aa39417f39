"""`coreimage build`: a channel, from its archives to its release."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreimage.cli.output import Facts, check_output, document, leave_image, login_key_files, login_of
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import UsageError
from coreimage.stages import STAGES, Stage, Stages

if TYPE_CHECKING:
    from coreimage.model import ArtifactRef, BootReport
    from flows.result import ArchitectureResult, BuildResult
    from flows.stages import StagesResult


@click.command()
@click.argument("channel")
@click.option("--device", "devices", multiple=True, metavar="D", help="Only this device; may be repeated.")
@click.option("--refresh", is_flag=True, help="Do every step anew, whatever is remembered.")
@click.option("--offline", is_flag=True, help="From the current lock and the .debs in the store; asks no archive.")
@click.option("--until", type=click.Choice(STAGES), help="Do nothing after this stage; say where its results are.")
@click.option(
    "--from",
    "first",
    type=click.Choice(STAGES),
    help="Do this stage and what follows anew, with what the stages before it gave the last time.",
)
@click.option("--explain", is_flag=True, help="Say which steps would run, and why; do none of them.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Leave a bootable image here.")
@click.option("--login-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Your SSH public key.")
@click.option("--force", is_flag=True, help="Replace an existing FILE.")
@pass_settings
def build(
    settings: Settings,
    channel: str,
    devices: tuple[str, ...],
    refresh: bool,
    offline: bool,
    until: Stage | None,
    first: Stage | None,
    explain: bool,
    output: Path | None,
    login_key: Path | None,
    force: bool,
) -> None:
    """Build CHANNEL, test that it boots, and release it.

    Run again with nothing changed, it only looks at the archives. With --until and --from it takes only some of its
    stages: plan, rootfs, device, publish, import, image, boot, release.

    \b
    Example:
      coreimage build debian-core/13/edge --device generic_amd64 --output x86.img
      coreimage build debian-core/13/edge --until device
      coreimage build debian-core/13/edge --from publish --until import
    """
    check_output(output, force=force)
    login_of(login_key_files(login_key))
    _check_channel(settings, channel, devices, one_device=output is not None)
    if until or first:
        stages = _stages(first, until, refresh=refresh, whole=explain or output is not None)
        take_stages(settings, channel, devices, stages, offline=offline)
        return
    if explain:
        foresee(settings, channel, devices, offline=offline)
        return
    result = run_flow(settings, channel, devices, refresh=refresh, offline=offline)
    left = {}
    if output:
        facts, access = leave_image(settings, output, lambda path, _: _image(settings, result, path), login_key)
        left = document(output, facts, access)
    if settings.as_json:
        click.echo(json.dumps({**build_document(result), **left}))
    elif not output:
        click.echo(summary(result))


def _stages(first: Stage | None, last: Stage | None, *, refresh: bool, whole: bool) -> Stages:
    """Raises UsageError for a combination that means nothing."""
    if whole:
        raise UsageError(
            "--until and --from take only some stages: they leave no image, and --explain tells of all",
            resolution="leave them out, or make an image of what is released with `coreimage flash`",
        )
    if refresh and first:
        raise UsageError("--from does anew what follows it already", resolution="leave out --refresh")
    stages = Stages(first=STAGES[0] if refresh else first, last=last or STAGES[-1])
    if not stages.in_order:
        raise UsageError(f"--until {last} comes before --from {first}", resolution=f"their order: {', '.join(STAGES)}")
    return stages


def _check_channel(settings: Settings, channel: str, devices: tuple[str, ...], *, one_device: bool) -> None:
    """Raises what is wrong with the command line before anything is made."""
    known = settings.devices_of(channel)
    unknown = [device for device in devices if device not in known]
    if unknown:
        resolution = f"its devices: {', '.join(known)}"
        raise UsageError(f"device {unknown[0]!r} is not in the channel", where=channel, resolution=resolution)
    if one_device and len(set(devices or known)) != 1:
        raise UsageError("an image is of one device", where=channel, resolution="name it with --device")


def run_flow(
    settings: Settings, channel: str, devices: tuple[str, ...], *, refresh: bool, offline: bool = False
) -> BuildResult:
    """Runs the flow on the Prefect server that is named, or on one of our own for as long as it takes."""
    with _prefect(settings, "flows.build"):
        from flows.build import build_channel  # noqa: PLC0415

        return build_channel(channel, devices=devices, refresh=refresh, offline=offline, **_site_parameters(settings))


def take_stages(settings: Settings, channel: str, devices: tuple[str, ...], stages: Stages, *, offline: bool) -> None:
    with _prefect(settings, "flows.stages"):
        from flows.stages import build_stages  # noqa: PLC0415

        result = build_stages(channel, stages, devices=devices, offline=offline, **_site_parameters(settings))
    click.echo(json.dumps(stages_document(settings, result)) if settings.as_json else stages_summary(settings, result))


@contextmanager
def _prefect(settings: Settings, module: str) -> Iterator[None]:
    """`module`, which has the flow, is imported while a server of our own starts."""
    from coreimage import logs  # noqa: PLC0415
    from coreimage.cli.keys import make_keys  # noqa: PLC0415
    from coreimage.cli.prefect_server import names_server, prefect_api  # noqa: PLC0415

    own = not names_server(os.environ)

    def prepare() -> None:
        """Takes as long as the server takes to start, on another core."""
        make_keys(settings.keys_folder)
        importlib.import_module(module)

    with prefect_api(settings.state("prefect"), debug=settings.debug, meanwhile=prepare) as url:
        from flows.reporting import report_to  # noqa: PLC0415

        logs.show(settings.log_level)
        with report_to(url, own_home=Path(os.environ["PREFECT_HOME"]) if own else None):
            yield


def _site_parameters(settings: Settings) -> dict[str, str]:
    return {
        "project_file": str(settings.project_file),
        "store_url": settings.store_url,
        "keys_folder": str(settings.keys_folder),
    }


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
    return "\n".join(lines)


def build_document(result: BuildResult) -> dict[str, Any]:
    """What a program wants to know of a run; `image_sha256` is that of the released image, which has no login."""
    devices = [
        {
            "device": device.device,
            "version": device.release.version,
            "image": device.image.image.uri,
            "image_sha256": device.image.raw_sha256,
            "boots": [_boot_document(boot) for boot in device.boots],
        }
        for device in result.devices
    ]
    return {
        "channel": result.channel,
        "build_id": result.published.build_id,
        "unchanged": result.unchanged,
        "architectures": [_architecture_document(found) for found in result.architectures],
        "devices": devices,
        "steps": [step.model_dump() for step in result.steps],
    }


def stages_summary(settings: Settings, result: StagesResult) -> str:
    """What each step gave, and below it where its artifacts are."""
    lines = []
    for made in result.made:
        subject = f" ({made.subject})" if made.subject else ""
        lines.append(f"{made.stage}: {made.said or made.step}{subject}")
        lines += [f"  {name}: {_place(settings, ref)}" for name, ref in made.artifacts.items()]
    return "\n".join(lines)


def stages_document(settings: Settings, result: StagesResult) -> dict[str, Any]:
    made = [
        {
            "stage": each.stage,
            "step": each.step,
            "subject": each.subject,
            "artifacts": {
                name: {"place": _place(settings, ref), "sha256": ref.sha256} for name, ref in each.artifacts.items()
            },
        }
        for each in result.made
    ]
    return {"channel": result.channel, "made": made, "steps": [step.model_dump() for step in result.steps]}


def _place(settings: Settings, ref: ArtifactRef) -> str:
    """A path where the store is a folder, which is what one can look at; else its key below the store's URL."""
    return f"{settings.store_url.removeprefix('file://')}/{ref.uri}"


def _architecture_document(result: ArchitectureResult) -> dict[str, str]:
    return {
        "architecture": result.architecture,
        "log": result.log.uri if result.log else "",
        "failure": result.failure,
    }


def _boot_document(report: BootReport) -> dict[str, Any]:
    verdict = report.model_dump(include={"firmware", "passed", "duration_s"})
    return {**verdict, "serial_log": report.serial_log.uri}


def _image(settings: Settings, result: BuildResult, path: Path) -> Facts:
    from coreimage.cli.tools import own_tools  # noqa: PLC0415
    from coreimage.disk_image import fetch_image  # noqa: PLC0415
    from coreimage.process import run  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    device = result.devices[0]
    fetch_image(device.image, path, store=open_store(settings.store_url), run=run)
    return Facts(device.image.architecture, result.channel, device.release.version, own_tools(settings))
