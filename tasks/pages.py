"""The task that writes the pages for people."""

from __future__ import annotations

from coreimage import pages
from coreimage.model import PublishedBuild, Release
from coreimage.publication import BuildTree
from tasks.factory import artifact_task
from tasks.site import Site


@artifact_task(title="Writing the pages")
def write_pages(published: PublishedBuild, releases: tuple[Release, ...], *, site: Site) -> int:
    """Write the pages that a build changes: its own, those of its tree and of the channels that it was released to."""
    tree = BuildTree(project=published.project, series=published.series, image_type=published.image_type)
    channels = {release.channel for release in releases}
    return pages.write_pages(store=site.store(), channels=channels, trees=[tree])
