"""The disk image as a task: made of what a device would download, never of what the build left behind."""

from __future__ import annotations

import time

from coreimage import disk_image, progress
from coreimage.client import Session
from coreimage.flash import WEB_ROOT, Making, StoreWeb, flash
from coreimage.image_server import GpgvVerify
from coreimage.logs import story
from coreimage.model import Architecture, ArtifactRef, Candidate, DiskImage, ToolsTree
from coreimage.process import run
from coreimage.storage import Store
from coreimage.workspace import workspace
from tasks.caching import artifact_task, live_task
from tasks.site import Site

_ARCHIVE_MASTER = f"{WEB_ROOT}gpg/archive-master.tar.xz"


@live_task()
def publish_gadget(gadget: ArtifactRef, tools: ToolsTree, *, site: Site) -> None:
    """What `flash` takes by name; publishing the same again changes nothing."""
    store = site.store()
    with workspace("gadget") as work:
        folder = disk_image.unpack_gadget(gadget, work / "gadget", store=store)
        disk_image.publish_gadget(folder, store=store, signer=site.signer(), run=site.run(tools))


@artifact_task()
def assemble_image(
    candidate: Candidate, gadget: ArtifactRef, architecture: Architecture, tools: ToolsTree, *, site: Site
) -> DiskImage:
    return assemble_candidate(candidate, gadget, architecture, tools, site)


def assemble_candidate(
    candidate: Candidate, gadget: ArtifactRef, architecture: Architecture, tools: ToolsTree, site: Site
) -> DiskImage:
    store = site.store()
    with workspace("assemble") as work:
        folder = disk_image.unpack_gadget(gadget, work / "gadget", store=store)
        making = Making(gadget_folder=folder, output=work / "disk.img", run=site.run(tools), work_folder=work)
        made = flash(
            candidate_session(candidate, store),
            candidate.channel,
            candidate.device,
            architecture,
            making,
            on_step=lambda step: story.info(f"  {step}"),
        )
        return disk_image.store_image(made, store=store, signer=site.signer(), run=site.run(tools), work_folder=work)


def candidate_session(candidate: Candidate, store: Store) -> Session:
    """The ordinary client, pointed at the candidate's own channels document."""
    with store.open(_ARCHIVE_MASTER) as file:
        archive_master = file.read()
    channels_path = candidate.channels.uri.removeprefix(WEB_ROOT)
    return Session(
        StoreWeb(store, progress.each_file()), GpgvVerify(run), archive_master, time.time, channels_path=channels_path
    )
