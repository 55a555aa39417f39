"""The channel tree as tasks."""

from __future__ import annotations

from datetime import UTC, datetime

from coreimage import system_image
from coreimage.model import Candidate, PublishedBuild, Release
from coreimage.process import run
from tasks.caching import artifact_task, live_task
from tasks.site import Site

_CODE = ("coreimage.system_image", "coreimage.tarball")


@live_task()
def publish_keyrings(*, site: Site) -> None:
    """Devices trust the channel through these; writing them again changes nothing."""
    system_image.publish_keyrings(store=site.store(), signer=site.signer(), now=datetime.now(UTC))


@artifact_task(code=_CODE)
def import_build(published: PublishedBuild, channel: str, device: str, *, site: Site) -> Candidate:
    return system_image.import_build(
        published, channel, device, store=site.store(), signer=site.signer(), run=run, now=datetime.now(UTC)
    )


@artifact_task(code=_CODE)
def release_candidate(candidate: Candidate, *, site: Site) -> Release:
    return system_image.release_candidate(
        candidate, store=site.store(), signer=site.signer(), now=datetime.now(UTC)
    )
