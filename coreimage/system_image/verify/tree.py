"""Checks of a published tree wherever it is: in a store, in a folder, or behind a URL; and its repair."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from coreimage.client import Web
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.http import Fetch
from coreimage.storage import Store
from coreimage.system_image.channels.changes import renew_indexes
from coreimage.system_image.channels.document import heal_pair
from coreimage.system_image.keys.keyrings import heal_keyrings
from coreimage.system_image.server import ChannelTree
from coreimage.system_image.verify.builds import verify_builds
from coreimage.system_image.verify.findings import Findings
from coreimage.system_image.verify.walk import walk_tree
from coreimage.system_image.web import WEB_ROOT, FetchWeb, GpgvVerify, StoreWeb, client_errors


def verify_store(
    store: Store,
    archive_master: bytes,
    *,
    cdimage_key: bytes | None = None,
    legacy: bool = False,
    run: Run = run_process,
    now: Callable[[], float] = time.time,
) -> Findings:
    """Check the `system-image/` tree of a store and, with the public key of cdimage, the builds below `cdimage/`."""
    names = [info.key.removeprefix(WEB_ROOT) for info in store.list(WEB_ROOT)]
    findings = verify_tree(StoreWeb(store), archive_master, names=names, legacy=legacy, run=run, now=now)
    return findings if cdimage_key is None else findings + verify_builds(store, cdimage_key, run=run)


def verify_web(
    where: str | Path,
    archive_master: bytes,
    *,
    fetch: Fetch,
    legacy: bool = False,
    run: Run = run_process,
    now: Callable[[], float] = time.time,
) -> Findings:
    """Check the tree in a folder, or at a URL, where orphans cannot be seen."""
    if isinstance(where, str):
        return verify_tree(FetchWeb(where, fetch), archive_master, legacy=legacy, run=run, now=now)
    root = where.absolute()
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return verify_tree(FetchWeb(root.as_uri(), fetch), archive_master, names=names, legacy=legacy, run=run, now=now)


def verify_tree(
    web: Web,
    archive_master: bytes,
    *,
    names: Iterable[str] | None = None,
    legacy: bool = False,
    run: Run = run_process,
    now: Callable[[], float] = time.time,
) -> Findings:
    """Check everything that can be reached from `archive_master` (see `walk_tree`).

    Args:
        web: The tree's files.
        archive_master: The keyring tarball that is trusted because it was given.
        names: All paths below the web root; None when they cannot be listed.
        legacy: Whether the server is one of 2015, whose channels have neither number nor expiry.

    Raises:
        InfrastructureError: The tree cannot be read. What is wrong in it is a finding.
    """
    with tempfile.TemporaryDirectory(prefix="verify-") as folder, client_errors():
        return walk_tree(
            web, GpgvVerify(run), archive_master, names=names, now=now(), folder=Path(folder), legacy=legacy
        )


def repair_tree(tree: ChannelTree) -> bool:
    """Make pairs that old clients read agree again with what is signed, and indexes anew that lead such clients astray.

    Returns:
        Whether anything had to be written.
    """
    keyrings, pairs = heal_keyrings(store=tree.store), heal_pair(tree)
    return renew_indexes(tree).changed or keyrings or pairs
