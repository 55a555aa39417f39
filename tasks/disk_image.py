"""The disk image as a task: made of what a device would download, never of what the build left behind."""

from __future__ import annotations

from coreimage.model import Architecture, ArtifactRef, Candidate, DiskImage
from tasks.caching import artifact_task
from tasks.site import Site

_CODE = ("coreimage.disk_image", "coreimage.client", "coreimage.tarball")


@artifact_task(code=_CODE)
def assemble_image(candidate: Candidate, gadget: ArtifactRef, architecture: Architecture, *, site: Site) -> DiskImage:
    return assemble_candidate(candidate, gadget, architecture, site)


def assemble_candidate(candidate: Candidate, gadget: ArtifactRef, architecture: Architecture, site: Site) -> DiskImage:
    raise NotImplementedError
