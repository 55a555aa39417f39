"""`coreimage serve`: the store over HTTP."""

from __future__ import annotations

import click

from coreimage.cli.settings import Settings, pass_settings
from coreimage.errors import HostError


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
    from coreimage.storage import open_store  # noqa: PLC0415
    from coreimage.web_server import make_server  # noqa: PLC0415

    try:
        server = make_server(open_store(settings.store_url), host, port)
    except OSError as error:
        raise HostError(
            f"cannot listen: {error.strerror}", where=f"{host}:{port}", resolution="try --port 0"
        ) from error
    with server:
        click.echo(f"Serving {settings.store_url} at http://{host}:{server.server_address[1]}/", err=settings.as_json)
        server.serve_forever(poll_interval=0.1)
