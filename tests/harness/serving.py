"""`coreimage serve` without its command: a store over HTTP, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from coreimage.storage import Store
from coreimage.web_server import make_server


@contextmanager
def serving(store: Store) -> Iterator[str]:
    """The address, until the block is left."""
    with make_server(store, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
