"""The tasks that publish a dated build and mark it good."""

from __future__ import annotations

from datetime import UTC, datetime

from coreimage import publication
from coreimage.model import Architecture, BootReport, CustomBuild, DeviceBuild, PublishedBuild, Release, RootfsBuild
from coreimage.publication import BuildContent
from tasks.factory import artifact_task
from tasks.site import Site


@artifact_task(title="Publishing the build", exclude=["carry"])
def publish_build(
    *,
    project: str,
    series: str,
    codename: str,
    product: str,
    image_type: str,
    rootfs: tuple[RootfsBuild, ...],
    devices: tuple[DeviceBuild, ...],
    custom: tuple[CustomBuild, ...],
    carry: tuple[Architecture, ...],
    site: Site,
) -> PublishedBuild:
    """Publish all parts as one dated build.

    Args:
        project: The name of the project.
        series: The series of the channel, as the project file names it.
        codename: The release of the distribution.
        product: The name of the rootfs files.
        image_type: The name of the folder of the builds.
        rootfs: One for each architecture.
        devices: One for each device.
        custom: One for each architecture, or none.
        carry: Architectures that could not be built, whose files are carried over from the last build that had them.
            They are no part of a build's identity, and so no input of the cache key.
        site: Where the build is published.
    """
    content = BuildContent(
        project=project,
        series=series,
        codename=codename,
        product=product,
        image_type=image_type,
        rootfs=rootfs,
        devices=devices,
        custom=custom,
    )
    return publication.publish_build(
        content, carry=carry, store=site.store(), signer=site.signer(), now=datetime.now(UTC)
    )


@artifact_task(title="Marking build {published.build_id} good for {architecture}", exclude=["releases"])
def mark_good(
    published: PublishedBuild,
    architecture: Architecture,
    boots: tuple[tuple[BootReport, ...], ...],
    releases: tuple[Release, ...],  # noqa: ARG001 - only what is released may be good
    *,
    site: Site,
) -> None:
    """Mark the build good for an architecture, with the boot reports of its devices, once all of them are released."""
    evidence = tuple(report for reports in boots for report in reports)
    publication.mark_good(published, architecture, evidence, store=site.store(), now=datetime.now(UTC))
