"""The tasks for gadgets and disk images. An image is made of what a device downloads, never of a build's own files."""

from __future__ import annotations

import time
from pathlib import Path

from coreimage import disk_image
from coreimage.client import Session
from coreimage.host.process import run
from coreimage.host.workspace import workspace
from coreimage.http import show_each_file
from coreimage.logs import story
from coreimage.model import Architecture, ArtifactRef, Candidate, DiskImage, ToolsTree
from coreimage.operations.flash import ImageRecipe, flash
from coreimage.storage import Store
from coreimage.system_image.web import WEB_ROOT, GpgvVerify, StoreWeb
from tasks.factory import artifact_task, live_task
from tasks.site import Site

_ARCHIVE_MASTER = f"{WEB_ROOT}gpg/archive-master.tar.xz"


@live_task(title="Packing the gadget {folder}", quiet=True, dry_run=True)
def pack_gadget(folder: Path, *, site: Site) -> ArtifactRef:
    """Put the gadget of a folder into the store."""
    return disk_image.pack_gadget(folder, store=site.store())


@live_task(quiet=True)
def publish_gadget(gadget: ArtifactRef, tools: ToolsTree, *, site: Site) -> None:
    """Publish a gadget under its name for `flash`; publishing it again changes nothing."""
    store = site.store()
    with workspace("gadget") as work:
        folder = disk_image.unpack_gadget(gadget, work / "gadget", store=store)
        disk_image.publish_gadget(folder, store=store, signer=site.signer(), run=site.run(tools))


@artifact_task(title="Making the disk image of {candidate.device}")
def assemble_image(
    candidate: Candidate, gadget: ArtifactRef, architecture: Architecture, tools: ToolsTree, *, site: Site
) -> DiskImage:
    """Install the candidate into a new disk image, and store the image."""
    store = site.store()
    with workspace("assemble") as work:
        folder = disk_image.unpack_gadget(gadget, work / "gadget", store=store)
        recipe = ImageRecipe(gadget_folder=folder, output=work / "disk.img", run=site.run(tools), work_folder=work)
        image = flash(
            candidate_session(candidate, store),
            candidate.channel,
            candidate.device,
            architecture,
            recipe,
            on_step=lambda step: story.info(f"  {step}"),
        )
        return disk_image.store_image(image, store=store, signer=site.signer(), run=site.run(tools), work_folder=work)


def candidate_session(candidate: Candidate, store: Store) -> Session:
    """Return the session of an ordinary client that reads the candidate's own channels document."""
    with store.open(_ARCHIVE_MASTER) as file:
        archive_master = file.read()
    channels_path = candidate.channels.uri.removeprefix(WEB_ROOT)
    return Session(
        StoreWeb(store, show_each_file()), GpgvVerify(run), archive_master, time.time, channels_path=channels_path
    )
