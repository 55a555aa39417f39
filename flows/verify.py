"""`coreimage verify` as a flow."""

from __future__ import annotations

from prefect import flow

from coreimage import logs, system_image
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.errors import AttentionError
from coreimage.system_image.documents import layout
from coreimage.system_image.web import StoreWeb
from tasks.site import Site


@flow(name="verify-tree")
def verify_tree(repair: bool = False) -> int:
    """Check every signature, digest, size and reference of the tree, and return how many objects were checked.

    The run fails when a client would refuse anything; its message names all of it.

    Args:
        repair: First repair the pairs of document and signature that a killed process left torn.

    Raises:
        AttentionError: A client would refuse something.
    """
    logs.configure()
    site = Site.here()
    store = site.store()
    if repair:
        system_image.repair_tree(site.channel_tree())
    archive_master = StoreWeb(store).read(layout.keyring("archive-master"), KEYRING_LIMIT_BYTES)
    findings = system_image.verify_store(store, archive_master)
    if findings.errors:
        raise AttentionError(
            "; ".join(f"{finding.where}: {finding.problem}" for finding in findings.errors),
            where=store.url,
            resolution="`coreimage verify` says what to do about each",
        )
    return findings.checked
