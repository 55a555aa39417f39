"""Dated builds as tasks."""

from __future__ import annotations

from datetime import UTC, datetime

from coreimage import publication
from coreimage.model import Architecture, BootReport, PublishedBuild
from coreimage.publication import BuildContent
from tasks.caching import artifact_task
from tasks.site import Site


@artifact_task(exclude=["carry"])
def publish_build(content: BuildContent, carry: tuple[Architecture, ...] = (), *, site: Site) -> PublishedBuild:
    """`carry` is no part of a build's identity, so it is no input."""
    return publication.publish_build(
        content, carry=carry, store=site.store(), signer=site.signer(), now=datetime.now(UTC)
    )


@artifact_task()
def mark_good(
    published: PublishedBuild, architecture: Architecture, evidence: tuple[BootReport, ...], *, site: Site
) -> None:
    publication.mark_good(published, architecture, evidence, store=site.store(), now=datetime.now(UTC))
