"""A store over HTTP: by `coreimage serve` without its command, and by nginx as docs/serving.md has it."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coreimage.host.process import spawn
from coreimage.services import web_server
from coreimage.storage import Store


@contextmanager
def serving(store: Store, *, idle_limit_s: int = web_server.IDLE_LIMIT_S) -> Iterator[str]:
    """The address, until the block is left."""
    with web_server.serving(store, "127.0.0.1", 0, idle_limit_s=idle_limit_s) as server:
        yield f"http://127.0.0.1:{server.port}"


_CONFIG = Path(__file__).parents[2] / "infra/nginx/coreimage.conf"
_READY_S = 60.0
_MAIN = """
USER
pid nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include coreimage.conf;
}
"""


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[str]:
    """Debian's nginx with our configuration for another port and folder; the address, until the block is left."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = _CONFIG.read_text()
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("    listen [::]:80;\n", ""),
        ("/srv/coreimage/store", str(root)),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "coreimage.conf").write_text(text)
    (folder / "nginx.conf").write_text(_MAIN.replace("USER", "user root;" if os.geteuid() == 0 else ""))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    argv = [program, "-p", f"{folder}/", "-c", f"{folder}/nginx.conf", "-e", "stderr", "-g", "daemon off;"]
    with (folder / "out").open("wb") as out, spawn(argv, cwd=folder, stdout=out) as child:
        deadline = time.monotonic() + _READY_S
        while not _listens(port):
            assert child.running(), "\n".join(child.lines())
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
