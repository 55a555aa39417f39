"""`coreimage serve`: the store over HTTP."""

from __future__ import annotations

import click

from coreimage.cli.settings import Settings, pass_settings


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 is all.")
@pass_settings
def serve(settings: Settings, port: int, host: str) -> None:
    """Serve the store over HTTP until Ctrl-C: channels at /, builds at /cdimage/, images at /images/.

    \b
    Example:
      coreimage serve --port 8080
      coreimage channel list --server http://127.0.0.1:8080 --keyring archive-master.tar.xz
    """
    from coreimage.services.web_server import serving  # noqa: PLC0415

    with serving(settings.opened_store, host, port) as server:
        click.echo(f"Serving {settings.store_url} at http://{host}:{server.port}/", err=settings.as_json)
        server.thread.join()
