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

from coreimage.cli.build_results import build_document, build_summary, stages_document, stages_summary
from coreimage.cli.launch import launch_commands
from coreimage.cli.output import Access, check_output, document, login_key_files, login_with, summary
from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import UsageError
from coreimage.operations.stages import STAGES, Stage, Stages

if TYPE_CHECKING:
    from flows.report.result import BuildResult


@click.command()
@click.argument("channel")
@click.option("--device", "devices", multiple=True, metavar="D", help="Only this device; may be repeated.")
@click.option("--refresh", is_flag=True, help="Run every task again, whatever is remembered.")
@click.option("--offline", is_flag=True, help="Build from the current lock and the .debs in the store; ask no archive.")
@click.option("--until", type=click.Choice(STAGES), help="Stop after this stage, and say where its results are.")
@click.option(
    "--from",
    "first",
    type=click.Choice(STAGES),
    help="Run this stage and those after it again, with what the stages before it gave the last time.",
)
@click.option("--explain", is_flag=True, help="Say which tasks would run, and why; run none of them.")
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

    Run again with nothing changed, it only looks at the archives. With --until and --from only some of its stages are
    run: plan, rootfs, device, publish, import, image, boot, release.

    \b
    Example:
      coreimage build debian-core/13/edge --device generic_amd64 --output x86.img
      coreimage build debian-core/13/edge --until device
      coreimage build debian-core/13/edge --from publish --until import
    """
    check_output(output, force=force)
    login_with(login_key_files(login_key))
    chosen = settings.devices_of(channel, devices)
    if output and len(chosen) != 1:
        raise UsageError("an image is of one device", where=channel, resolution="name it with --device")
    if until or first:
        stages = _chosen_stages(first, until, refresh=refresh, needs_all=explain or output is not None)
        _run_stages(settings, channel, devices, stages, offline=offline)
        return
    if explain:
        _explain(settings, channel, devices, offline=offline)
        return
    result = _run_build(settings, channel, devices, refresh=refresh, offline=offline)
    image = _leave_image(settings, result, output, login_key) if output else {}
    if settings.as_json:
        click.echo(json.dumps({**build_document(result), **image}))
    elif not output:
        click.echo(build_summary(result))


def _chosen_stages(first: Stage | None, last: Stage | None, *, refresh: bool, needs_all: bool) -> Stages:
    """Return the stages to run.

    Raises:
        UsageError: The options contradict each other.
    """
    if needs_all:
        raise UsageError(
            "--until and --from run only some stages: they leave no image, and --explain tells of all",
            resolution="leave them out, or make an image of what is released with `coreimage flash`",
        )
    if refresh and first:
        raise UsageError("--from runs again what follows it already", resolution="leave out --refresh")
    stages = Stages(first=STAGES[0] if refresh else first, last=last or STAGES[-1])
    if not stages.in_order:
        raise UsageError(f"--until {last} comes before --from {first}", resolution=f"their order: {', '.join(STAGES)}")
    return stages


def _run_build(
    settings: Settings, channel: str, devices: tuple[str, ...], *, refresh: bool, offline: bool
) -> BuildResult:
    """Run the flow on the Prefect server that is named, or on one of our own for as long as it takes."""
    with _prefect(settings, "flows.build"):
        from flows.build import build_channel  # noqa: PLC0415

        return build_channel(channel, *_places(settings), devices, refresh=refresh, offline=offline)


def _run_stages(settings: Settings, channel: str, devices: tuple[str, ...], stages: Stages, *, offline: bool) -> None:
    """Run some stages as `_run_build` runs a whole build, and print what they gave."""
    with _prefect(settings, "flows.plan"):
        from flows.plan import build_stages  # noqa: PLC0415

        result = build_stages(channel, stages, *_places(settings), devices, offline=offline)
    click.echo(json.dumps(stages_document(settings, result)) if settings.as_json else stages_summary(settings, result))


@contextmanager
def _prefect(settings: Settings, module: str) -> Iterator[None]:
    """Provide a Prefect server for the block, and report runs to it; import the flow's `module` while it starts."""
    from coreimage import logs  # noqa: PLC0415
    from coreimage.cli.keys import make_missing_keys_of  # noqa: PLC0415
    from coreimage.services.prefect_server import names_server, prefect_api  # noqa: PLC0415

    own = not names_server(os.environ)

    def prepare() -> None:
        # This takes as long as the server takes to start, on another core.
        make_missing_keys_of(settings)
        importlib.import_module(module)

    with prefect_api(settings.state("prefect"), debug=settings.debug, meanwhile=prepare) as url:
        from flows.report.runs import report_to  # noqa: PLC0415

        logs.show(settings.log_level)
        with report_to(url, own_home=Path(os.environ["PREFECT_HOME"]) if own else None):
            yield


def _places(settings: Settings) -> tuple[str, str, str]:
    """Return where a run works: project file, store and keys, as flows take them."""
    return str(settings.project_file), settings.store_url, str(settings.keys_folder)


def _explain(settings: Settings, channel: str, devices: tuple[str, ...], *, offline: bool) -> None:
    """Print what a build would do. No Prefect server is needed: only the records that earlier runs left."""
    from coreimage import logs  # noqa: PLC0415
    from coreimage.services.prefect_server import set_prefect_settings  # noqa: PLC0415

    set_prefect_settings(settings.state("prefect"), debug=settings.debug)
    from flows.plan import plan_build  # noqa: PLC0415

    logs.show(settings.log_level)
    actions = plan_build(channel, *_places(settings), devices, offline=offline)
    entries = [{"name": each.task, "subject": each.subject, "reasons": each.reasons} for each in actions]
    click.echo(json.dumps(entries) if settings.as_json else "\n".join(map(str, actions)))


def _leave_image(settings: Settings, result: BuildResult, output: Path, login_key: Path | None) -> dict[str, Any]:
    """Leave the released image of the one device, with a login, at `output`; return what a program wants to know."""
    from coreimage.disk_image import fetch_image  # noqa: PLC0415
    from coreimage.host.process import run  # noqa: PLC0415
    from coreimage.operations.finish_image import Finish, RawImage, finish_image  # noqa: PLC0415
    from coreimage.operations.tools import store_tools  # noqa: PLC0415

    (device,) = result.devices

    def fetch(raw: Path, _work: Path) -> RawImage:
        fetch_image(device.image, raw, store=settings.opened_store, run=run)
        tools = store_tools(settings.own_tree())
        return RawImage(device.image.architecture, result.channel, device.release.version, tools)

    key_files = login_key_files(login_key)
    finish = Finish(login=login_with(key_files))
    image = finish_image(output, fetch, finish)
    access = Access(finish.login, key_files, *launch_commands(output, image.architecture, finish))
    if not settings.as_json:
        click.echo(summary(output, image, access))
    return document(output, image, access)
