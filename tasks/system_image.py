"""The channel tree as tasks."""

from __future__ import annotations

from pathlib import Path

from coreimage import system_image
from coreimage.config import ComponentConfig
from coreimage.model import Architecture, Candidate, Compression, PublishedBuild, Release, Server, ToolsTree
from coreimage.system_image import Component
from coreimage.system_image.documents import newest_version as newest
from coreimage.system_image.tree import read_channels, read_images
from tasks.caching import artifact_task, live_task
from tasks.site import Site, now


@live_task()
def publish_keyrings(*, site: Site) -> None:
    """Devices trust the channel through these; writing them again changes nothing. The channels' end is moved too."""
    store, signer = site.store(), site.signer()
    system_image.end_overlaps(Path(site.keys_folder), store=store, now=now)
    system_image.publish_keyrings(store=store, signer=signer, now=now)
    system_image.renew_channels(store=store, signer=signer, now=now)


@live_task()
def gather_components(
    configs: tuple[ComponentConfig, ...],
    device: str,
    architecture: Architecture,
    compression: Compression,
    *,
    folder: str,
    tools: ToolsTree,
    site: Site,
) -> tuple[Component, ...]:
    """What may have changed where nothing here did: looked at each time."""
    gathering = system_image.Gathering(
        device=device,
        architecture=architecture,
        compression=compression,
        folder=Path(folder),
        store=site.store(),
        signer=site.signer(),
        fetch=site.fetch(),
        now=now,
        run=site.run(tools),
    )
    return system_image.gather(configs, gathering)


@artifact_task()
def import_build(
    published: PublishedBuild,
    channel: str,
    device: str,
    *,
    description: str,
    compression: Compression,
    delta_bases: int,
    server: Server,
    components: tuple[Component, ...],
    tools: ToolsTree,
    site: Site,
) -> Candidate:
    return system_image.import_build(
        published,
        channel,
        device,
        store=site.store(),
        signer=site.signer(),
        run=site.run(tools),
        now=now,
        description=description,
        compression=compression,
        delta_bases=delta_bases,
        server=server,
        components=components,
    )


@artifact_task()
def release_candidate(candidate: Candidate, *, site: Site) -> Release:
    return system_image.release_candidate(candidate, store=site.store(), signer=site.signer(), now=now)


def newest_version(channel: str, device: str, site: Site) -> int:
    """The version that the channel names now; 0 for none."""
    store, signer = site.store(), site.signer()
    return newest(read_images(store, read_channels(store, signer).document, channel, device))
