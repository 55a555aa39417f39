"""`coreimage up`: start a whole installation on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from coreimage.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from coreimage.services.installation import Installation


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
    from coreimage.cli.keys import make_missing_keys  # noqa: PLC0415
    from coreimage.services.background import run_in_background  # noqa: PLC0415

    settings.load_project()  # What is wrong in it is told here, and not in the log of a service.
    make_missing_keys(settings.keys_folder)
    installation = find_installation(settings)
    if foreground:
        installation.run(lambda: _show(settings, installation))
        return
    if installation.running_pid() is None:
        run_in_background(installation.run, installation.folder / "log/supervisor.log")
        installation = find_installation(settings)  # Its ports may be others than before the start.
    else:
        click.echo(installation.deploy().strip(), err=settings.as_json)
    _show(settings, installation)


def find_installation(settings: Settings) -> Installation:
    """Return the installation of the working directory, running or not."""
    from coreimage.services.installation import Installation  # noqa: PLC0415

    return Installation(settings.state("up"), settings.project_file, settings.keys_folder)


def _show(settings: Settings, installation: Installation) -> None:
    if settings.as_json:
        click.echo(json.dumps({"ui": installation.ui_url, "api": installation.api_url, "web": installation.web_url}))
        return
    click.echo(f"Prefect UI: {installation.ui_url}")
    click.echo(f"API:        {installation.api_url}  (export PREFECT_API_URL={installation.api_url})")
    click.echo(f"Channels:   {installation.web_url}/  builds at /cdimage/, images at /images/")
    click.echo(f"Logs:       {installation.folder}/log")
