"""`coreimage deploy`: a project file becomes deployments of a Prefect server."""

from __future__ import annotations

import json
import os

import click

from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import UsageError


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@pass_settings
def deploy(settings: Settings, dry_run: bool) -> None:
    """Give the Prefect server of PREFECT_API_URL one deployment per channel and purpose, as the project file says.

    Run again, it changes nothing; what is gone from the file loses its deployments. The project is put into the
    store, from where workers take it.

    \b
    Example:
      PREFECT_API_URL=http://127.0.0.1:4200/api coreimage --project images.yaml deploy --dry-run
    """
    from coreimage.services.prefect_server import set_prefect_settings  # noqa: PLC0415

    if not os.environ.get("PREFECT_API_URL"):
        raise UsageError("no Prefect server is named", resolution="set PREFECT_API_URL, or start one with `make up`")
    set_prefect_settings(settings.state("prefect"), debug=settings.debug)
    from deployments.deploy import deploy_project  # noqa: PLC0415

    changes = deploy_project(settings.project_file, settings.store_url, dry_run=dry_run)
    if settings.as_json:
        click.echo(json.dumps({"dry_run": dry_run, "changes": [change.model_dump() for change in changes]}))
        return
    for change in changes:
        click.echo(str(change))
    click.echo(f"{len(changes)} changes{' would be made' if dry_run else ''}" if changes else "nothing to change")
