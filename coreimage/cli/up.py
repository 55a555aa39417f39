"""`coreimage up` and `coreimage down`: a whole installation on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.cli.installation import Installation


@click.command()
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C.")
@pass_settings
def up(settings: Settings, foreground: bool) -> None:
    """Start Prefect's server, an S3 server, a worker and a web server here, with the project's deployments.

    All of it listens on the loopback interface only; its data is below var/up and survives. Where it runs already, the
    deployments become those of the project file as it is now.

    \b
    Example:
      coreimage --project images.yaml up
    """
    from coreimage.cli.installation import detached  # noqa: PLC0415
    from coreimage.cli.keys import make_keys  # noqa: PLC0415
    from coreimage.config import load_project  # noqa: PLC0415

    load_project(settings.project_file)
    make_keys(settings.keys_folder)
    found = _installation(settings)
    if foreground:
        found.supervise(lambda: _show(settings, found))
        return
    if found.running_pid() is None:
        detached(found.supervise, found.folder / "log/supervisor.log")
        found = _installation(settings)
    else:
        click.echo(found.deploy().strip(), err=settings.as_json)
    _show(settings, found)


@click.command()
@pass_settings
def down(settings: Settings) -> None:
    """End what `coreimage up` started. Runs that go on are ended; their data stays, and a retry goes on from there.

    \b
    Example:
      coreimage down
    """
    ended = _installation(settings).end()
    click.echo("Ended; the data is still in var/up" if ended else "Nothing is running", err=settings.as_json)


def _installation(settings: Settings) -> Installation:
    from coreimage.cli.installation import Installation  # noqa: PLC0415

    return Installation(settings.state("up"), settings.project_file, settings.keys_folder)


def _show(settings: Settings, found: Installation) -> None:
    if settings.as_json:
        click.echo(json.dumps({"ui": found.ui_url, "api": found.api_url, "web": found.web_url}))
        return
    click.echo(f"Prefect UI: {found.ui_url}")
    click.echo(f"API:        {found.api_url}  (export PREFECT_API_URL={found.api_url})")
    click.echo(f"Channels:   {found.web_url}/  builds at /cdimage/, images at /images/")
    click.echo(f"Logs:       {found.folder}/log")
